"""What the learning page says in words: each sentence names its claims, and what must have come out for it to be true.

A test holds the runs that come with the package to every expectation, so that no sentence outlives its evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

Expected = tuple[tuple[str, str], ...]  # hypothesis -> what it came to


def _holds(*hypotheses: str) -> Expected:
    return tuple((id_, "holds") for id_ in hypotheses)


def _fails(*hypotheses: str) -> Expected:
    return tuple((id_, "fails") for id_ in hypotheses)


def _open(*hypotheses: str) -> Expected:
    return tuple((id_, "inconclusive") for id_ in hypotheses)


@dataclass(frozen=True)
class Said:
    """A sentence.

    Attributes:
        claims: those that it leads the reader to.
        expects: what the sentence rests on, of experiments that decide these claims.
    """

    text: str
    claims: tuple[str, ...]
    expects: Expected


@dataclass(frozen=True)
class Row:
    """A line of the comparison: the same question to both norms."""

    topic: str
    batch: Said
    layer: Said


@dataclass(frozen=True)
class Question:
    """A question whose answer is shown once the reader has predicted it.

    Attributes:
        claims, expects: of the answer, as in :class:`Said`.
    """

    id: str
    asked: str
    options: tuple[str, ...]
    right: int
    because: str
    claims: tuple[str, ...]
    expects: Expected


def everything_said() -> tuple[Said | Question, ...]:
    """All that rests on evidence."""
    cells = (said for row in TABLE for said in (row.batch, row.layer))
    return (DEFINITION, *FACTS, *cells, *QUESTIONS)


DEFINITION = Said(
    "A normalization layer takes a group of numbers, gives it mean 0 and variance 1, then lets the network learn a "
    "scale γ and a shift β. What tells norms apart is who is in the group. BatchNorm groups one channel over all "
    "examples of a batch. LayerNorm groups all channels of one example, or of one token. Everything else on this page "
    "follows from that.",
    ("002-03", "002-10", "000-17"),
    _holds("E01-H1", "E01-H2", "E01-H3", "E01-H6", "E01-H7", "E01-H8", "E26-H3"),
)

FACTS = (
    Said(
        "BatchNorm has a mean and a variance for each channel, taken over the examples of the batch and, in images, "
        "over the pixels. LayerNorm has them for each example, taken over its channels; in a transformer, for each "
        "token.",
        ("000-02", "000-03", "000-05", "000-17", "001-11", "001-12"),
        _holds("E01-H1", "E01-H2", "E01-H6", "E01-H7"),
    ),
    Said(
        "So BatchNorm ties the examples of a batch together: change one, and what comes out for the others moves. "
        "Under LayerNorm it cannot.",
        ("000-07", "000-08", "001-15"),
        _holds("E03-H2", "E03-H4", "E03-H11", "E08-H1", "E08-H2") + _fails("E03-H12"),
    ),
    Said(
        "BatchNorm is two layers in one: the batch's own statistics in training, running averages afterwards. "
        "LayerNorm computes the same in both.",
        ("001-06", "001-16"),
        _holds("E03-H1", "E03-H6", "E03-H7", "E03-H8") + _fails("E03-H5"),
    ),
    Said(
        "The variance of a batch's mean falls as one over the batch size. On vectors, a batch of two leaves only the "
        "sign of the difference, and a batch of one leaves nothing.",
        ("001-13", "002-15", "000-02", "002-16"),
        _holds("E04-H1", "E04-H2", "E01-H23", "E03-H13"),
    ),
    Said(
        "Neither norm keeps gradients in every network. BatchNorm makes a deep sigmoid network trainable; by SGD "
        "LayerNorm leaves it at chance. Through ReLU layers, at the start, LayerNorm keeps the size of the gradient, "
        "and BatchNorm enlarges it layer by layer.",
        ("000-09", "000-10", "002-12"),
        _holds("E14-H1", "E14-H3", "E14-H7", "E14-H10", "E14-H12") + _fails("E14-H2", "E14-H11"),
    ),
    Said(
        "In a recurrent network the batch size counts, and the task. A tanh RNN that reads digits two pixels a step is "
        "far better with LayerNorm than with recurrent BatchNorm on four sequences at a time; with fifty our runs do "
        "not settle it, nor where it reads a pixel a step. In an LSTM, and where the next character is to be told, "
        "LayerNorm is not the better one with fifty.",
        ("000-13", "002-13", "001-14", "000-04"),
        _holds("E16-H3", "E16-H6") + _fails("E16-H17", "E16-H20") + _open("E16-C1", "E16-C5"),
    ),
)

TABLE = (
    Row(
        "Who shares a mean",
        Said(
            "One channel, over the whole batch (and all pixels).",
            ("002-03", "001-11"),
            _holds("E01-H1", "E01-H2", "E01-H3"),
        ),
        Said(
            "One example, or one token, over all its channels.",
            ("002-09", "000-17", "001-12", "001-20"),
            _holds("E01-H6", "E01-H7", "E01-H8", "E01-H10") + _fails("E01-H11"),
        ),
    ),
    Row(
        "Formula",
        Said(
            "y = γ·(x − μ) / √(σ² + ε) + β, with μ and σ² of the channel.",
            ("001-19", "002-03"),
            _holds("E01-H1", "E01-H5", "E26-H3"),
        ),
        Said(
            "y = γ·(x − μ) / √(σ² + ε) + β, with μ and σ² of the example, or of the token.",
            ("002-10",),
            _holds("E01-H6", "E01-H9", "E26-H3"),
        ),
    ),
    Row(
        "Dependence on the batch",
        Said("What comes out for an example depends on its batch-mates.", ("000-07",), _holds("E03-H11")),
        Said(
            "None: an example alone gives the same bits as in any batch.",
            ("001-07", "001-15", "000-03"),
            _holds("E03-H2", "E03-H3", "E03-H4"),
        ),
    ),
    Row(
        "Training and test",
        Said(
            "Batch statistics in training, running averages at test time.",
            ("001-16",),
            _holds("E03-H6", "E03-H7", "E03-H8", "E03-H9", "E03-H10") + _fails("E03-H5"),
        ),
        Said("The same computation.", ("001-06",), _holds("E03-H1")),
    ),
    Row(
        "Where it is used",
        Said(
            "Convolutional networks with batches that are not tiny.",
            ("001-17", "001-14", "002-07"),
            _holds("E20-H5", "E20-H6", "E20-H12", "E06-H10"),
        ),
        Said(
            "Tanh RNNs with small batches, in BatchNorm's place, though an LSTM did better without a norm; single "
            "examples; transformers, though it did not beat BatchNorm in our small ones: in sorting, the two could not "
            "be told apart; in telling the next character, BatchNorm's test loss was lower, and even that without a "
            "norm.",
            ("000-16", "000-19", "000-13", "002-16"),
            _holds("E16-H3", "E03-H2", "E03-H3")
            + _open("E18-H1", "E18-H6", "E18-H10", "E18-H11")
            + _fails("E16-H27", "E18-H19", "E18-H20"),
        ),
    ),
    Row(
        "Strengths",
        Said(
            "Deep networks train in fewer steps and, if batches are large, at higher learning rates and from the "
            "widest range of learning rates and initial weights; it folds into the layer before it at test time.",
            ("002-05", "002-08", "002-12", "000-11", "002-19"),
            _holds("E11-H1", "E11-H9", "E10-H1", "E28-H1", "E28-H3", "E24-H2", "E24-H5"),
        ),
        Said(
            "No minimum batch; no averages to go stale; a token's output does not see padding.",
            ("001-07", "001-06", "000-17"),
            _holds("E03-H1", "E03-H2", "E03-H3", "E01-H7"),
        ),
    ),
    Row(
        "Weaknesses",
        Said(
            "Poor at tiny batches in MLPs and recurrent networks, at chance with statistics grouped by class, and "
            "worse at test time where its running averages lag.",
            ("002-18", "001-14", "000-08", "001-13"),
            _holds("E05-H1", "E05-H4", "E16-H3", "E16-H6", "E09-H1", "E09-H3", "E07-H5"),
        ),
        Said(
            "Does not make a deep sigmoid network trainable by SGD; has its mean and variance to compute at test time, "
            "too; behind BatchNorm in the three kinds of convolutional network that we trained.",
            ("000-09", "000-11", "002-19", "002-20"),
            _fails("E14-H11") + _holds("E24-H2", "E24-H5", "E20-H1", "E20-H2", "E20-H7", "E20-H8", "E20-H11"),
        ),
    ),
)

QUESTIONS = (
    Question(
        "mates",
        "A batch holds four examples, in training mode. You double the values of the first. What happens to the "
        "outputs of the other three?",
        (
            "Nothing, under either norm",
            "They move under BatchNorm, not under LayerNorm",
            "They move under LayerNorm, not under BatchNorm",
        ),
        1,
        "BatchNorm's mean and variance contain the first example, so every output of a channel moves with it. "
        "LayerNorm never looks at another example. Try it above: choose an example and replace it.",
        ("000-07", "000-03"),
        _holds("E03-H2", "E03-H4", "E03-H11") + _fails("E03-H12"),
    ),
    Question(
        "pair",
        "A BatchNorm on vectors sees a training batch of two, with γ = 1 and β = 0. Which values can come out?",
        ("Any, of mean 0 and variance 1", "Almost exactly +1 and −1", "Only 0"),
        1,
        "Two numbers lie at the same distance from their mean, and that distance is their standard deviation: one "
        "becomes +1, the other −1, however far apart they were (if not so near that ε counts). The layer passes on "
        "signs.",
        ("000-02", "002-18"),
        _holds("E01-H23", "E05-H1"),
    ),
    Question(
        "channelwise",
        "A text says that in convolutional networks LayerNorm treats each channel as a sample of its own. Taken at its "
        "word, which norm is that?",
        ("LayerNorm", "InstanceNorm", "BatchNorm"),
        1,
        "A mean for each channel of each image is InstanceNorm. LayerNorm in a convolutional network takes all "
        "channels of an image together, or all channels of one pixel.",
        ("001-09",),
        _holds("E01-H15") + _fails("E01-H16", "E01-H17"),
    ),
    Question(
        "sigmoid",
        "A network of ten sigmoid layers does not train at all by SGD. Which norm makes it train?",
        ("Both do", "LayerNorm", "BatchNorm", "Neither"),
        2,
        "BatchNorm centres every unit on the steep part of its sigmoid. LayerNorm centres the layer as a whole, and "
        "the gradient still shrinks by more than half at every layer. It is SGD that this defeats: with Adam, which "
        "takes steps of one size whatever the gradient's, LayerNorm's network trains, too, if not as far as "
        "BatchNorm's, and with SGD one of four layers does.",
        ("000-09", "002-12"),
        _holds("E14-H10", "E14-H12", "E14-H13", "E14-H14") + _fails("E14-H6", "E14-H11", "E14-H22"),
    ),
    Question(
        "explode",
        "In a deep ReLU network with BatchNorm, freshly initialized, how does the size of the gradient change on the "
        "way back?",
        ("It stays", "It shrinks by a fixed factor at each layer", "It grows by about 1.21 at each layer"),
        2,
        "√(π/(π−1)) = 1.211 at each layer: through 30 layers that makes more than 200. Nothing would have vanished: "
        "with weights drawn as He et al. draw them the gradient keeps its size without a norm.",
        ("000-09",),
        _holds("E14-H1", "E14-H4") + _fails("E14-H2"),
    ),
    Question(
        "shift",
        "BatchNorm is said to work because it reduces internal covariate shift. Force such a shift back upon every "
        "layer, behind its BatchNorm: does it become worse than a network that has neither norm nor shift?",
        ("No", "Yes"),
        0,
        "It does not, though the same shift ruins a network without a norm. In an MLP BatchNorm does reduce the shift: "
        "what goes into a layer drifts less, and a layer's gradient turns less when the layers below are updated. But "
        "with the shift forced back upon it BatchNorm's error is not half a point above that of the network without "
        "either.",
        ("000-12", "002-04"),
        _fails("E12-H5") + _holds("E12-H6", "E12-H7", "E12-H8", "E12-H9"),
    ),
    Question(
        "recurrent",
        "Which norm trains a recurrent network better, LayerNorm or BatchNorm with statistics of each time step?",
        ("LayerNorm, always", "BatchNorm, always", "It depends on the batch size and on the task"),
        2,
        "In a tanh RNN on batches of four digits, two pixels a step, LayerNorm is far ahead: BatchNorm's statistics "
        "are of as many values as there are sequences. With fifty our runs do not settle it, two pixels a step or one; "
        "in an LSTM, and where the next character is to be told, LayerNorm is not the better one.",
        ("000-13", "002-13"),
        _holds("E16-H3") + _fails("E16-H17", "E16-H20") + _open("E16-C1", "E16-C5"),
    ),
    Question(
        "length",
        "A text says that LayerNorm suits sequences of varying length because it does not depend on the batch size. "
        "Does the one follow from the other?",
        ("No: these are two separate properties", "Yes"),
        0,
        "That length does not matter to it comes from one mean for each token. Whether varying lengths are BatchNorm's "
        "trouble our recurrent networks leave open, and what it loses on sequences longer than all that it was trained "
        "on: with padding and all, LayerNorm's test loss was not the lower one.",
        ("000-06", "001-18", "000-17"),
        _holds("E01-H7") + _fails("E17-H3") + _open("E17-H1", "E17-H4", "E17-H5"),
    ),
    Question(
        "cost",
        "Which of the two costs less once the network is deployed?",
        ("LayerNorm: it keeps no running statistics", "BatchNorm: it can vanish into the layer before it", "Neither"),
        1,
        "With fixed statistics BatchNorm is a fixed scale and shift for each channel, which multiply into the weights "
        "before it: no cost is left. LayerNorm has to compute its mean and variance for every example.",
        ("000-11", "002-19"),
        _holds("E24-H2", "E24-H5"),
    ),
)
