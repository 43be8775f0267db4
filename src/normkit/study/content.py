"""What the learning page says in words: each sentence names the claims whose evidence stands behind it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Said:
    """A sentence and the claims that test it."""

    text: str
    claims: tuple[str, ...]


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
        expects: claim -> how its evidence verdict begins where the answer is right. A test holds the shipped runs
            to it, so that no answer outlives its evidence.
    """

    id: str
    asked: str
    options: tuple[str, ...]
    right: int
    because: str
    claims: tuple[str, ...]
    expects: tuple[tuple[str, str], ...] = ()


DEFINITION = (
    "A normalization layer takes a group of numbers, gives it mean 0 and variance 1, then lets the network learn a "
    "scale γ and a shift β. Norms differ in one thing: who is in the group. BatchNorm groups one channel over all "
    "examples of a batch. LayerNorm groups all channels of one example, or of one token. Everything else on this page "
    "follows from that."
)

FACTS = (
    Said(
        "BatchNorm has a mean and a variance for each channel, taken over the examples of the batch and, in images, "
        "over the pixels. LayerNorm has them for each example, taken over its channels; in a transformer, for each "
        "token.",
        ("000-02", "000-03", "000-05", "001-11", "001-12"),
    ),
    Said(
        "So BatchNorm ties the examples of a batch together: change one, and what comes out for the others moves. "
        "Under LayerNorm it cannot.",
        ("000-07", "000-08", "001-15"),
    ),
    Said(
        "BatchNorm is two layers in one: the batch's own statistics in training, running averages afterwards. "
        "LayerNorm computes the same in both.",
        ("001-06", "001-16"),
    ),
    Said(
        "The noise of BatchNorm's statistics falls as one over the batch size. On vectors, a batch of two leaves only "
        "the sign of the difference, and a batch of one leaves nothing.",
        ("001-13", "002-15", "002-16", "002-18"),
    ),
    Said(
        "Neither norm cures vanishing gradients as such: a BatchNorm network of ReLUs lets gradients grow layer by "
        "layer, and LayerNorm leaves a deep sigmoid network as dead as it was.",
        ("000-09", "000-10", "002-12"),
    ),
    Said(
        "Which of the two is better in a recurrent network is a matter of the batch size, not of the architecture "
        "alone.",
        ("000-13", "002-13", "001-18"),
    ),
)

TABLE = (
    Row(
        "Who shares a mean",
        Said("One channel, over the whole batch (and all pixels).", ("002-03", "001-11")),
        Said("One example, or one token, over all its channels.", ("002-09", "001-12", "001-20")),
    ),
    Row(
        "Formula",
        Said("y = γ·(x − μ_c) / √(σ²_c + ε) + β, with μ and σ² of channel c.", ("001-19", "002-03")),
        Said("y = γ·(x − μ_n) / √(σ²_n + ε) + β, with μ and σ² of example n.", ("002-10",)),
    ),
    Row(
        "Dependence on the batch",
        Said("Output and gradient of an example depend on its batch-mates.", ("000-07", "001-13")),
        Said("None: an example alone gives the same bits as in any batch.", ("001-07", "001-15", "002-11")),
    ),
    Row(
        "Training and test",
        Said("Batch statistics in training, running averages at test time.", ("001-16",)),
        Said("The same computation.", ("001-06",)),
    ),
    Row(
        "Where it is used",
        Said("Convolutional networks with batches that are not tiny.", ("001-17", "002-07")),
        Said("Transformers and recurrent networks; single examples.", ("000-16", "000-19", "002-16")),
    ),
    Row(
        "Strengths",
        Said(
            "Widest range of learning rates, fast training, some regularization; folds into the layer before it at "
            "test time.",
            ("002-05", "002-06", "002-08", "002-17"),
        ),
        Said("No minimum batch; nothing to go stale; padding cannot leak.", ("001-07", "001-08", "002-14")),
    ),
    Row(
        "Weaknesses",
        Said(
            "Fails at tiny batches, with batches grouped by class, and where statistics and weights part.",
            ("002-18", "001-14", "000-08"),
        ),
        Said(
            "Does not help a deep sigmoid network; costs the same at test time as in training; in plain "
            "convolutional networks often behind.",
            ("002-20", "000-11", "002-19"),
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
        (("000-07", "holds"), ("000-03", "holds")),
    ),
    Question(
        "pair",
        "A BatchNorm on vectors sees a training batch of two, with γ = 1 and β = 0. Which values can come out?",
        ("Any, of mean 0 and variance 1", "Almost exactly +1 and −1", "Only 0"),
        1,
        "Two numbers lie at the same distance from their mean, and that distance is their standard deviation: one "
        "becomes +1, the other −1, however far apart they were. The layer passes on signs.",
        ("002-18",),
    ),
    Question(
        "channelwise",
        "A text says that in convolutional networks LayerNorm treats each channel as a sample of its own. Taken at its "
        "word, which norm is that?",
        ("LayerNorm", "InstanceNorm", "BatchNorm"),
        1,
        "A mean for each channel of each image is InstanceNorm, to the bit. LayerNorm in a convolutional network takes "
        "all channels of an image together, or all channels of one pixel.",
        ("001-09",),
    ),
    Question(
        "sigmoid",
        "A network of ten sigmoid layers does not train at all. Which norm makes it train?",
        ("Both do", "LayerNorm", "BatchNorm", "Neither"),
        2,
        "BatchNorm centres every unit on the steep part of its sigmoid. LayerNorm centres the layer as a whole, and "
        "the gradient still shrinks by more than half at every layer.",
        ("000-09", "002-12"),
    ),
    Question(
        "explode",
        "In a deep ReLU network with BatchNorm, freshly initialized, how does the size of the gradient change on the "
        "way back?",
        ("It stays", "It shrinks by a fixed factor at each layer", "It grows by about 1.21 at each layer"),
        2,
        "√(π/(π−1)) = 1.211 at each layer: over 30 layers that is a factor of 300. BatchNorm prevents vanishing here "
        "by exploding.",
        ("000-09",),
    ),
    Question(
        "shift",
        "BatchNorm is said to work because it reduces internal covariate shift. Measured as how much a layer's "
        "gradient turns when the layers below are updated, what does it do?",
        ("It does not reduce it", "It reduces the shift"),
        0,
        "In a deep linear network without norm the two gradients point the same way; with BatchNorm they are all but "
        "unrelated, while the network trains faster.",
        ("000-12", "002-04"),
    ),
    Question(
        "recurrent",
        "A recurrent network reads pixels one after the other. Which norm trains it better, LayerNorm or recurrent "
        "BatchNorm?",
        ("LayerNorm, always", "BatchNorm, always", "It depends on the batch size"),
        2,
        "Recurrent BatchNorm wins where batches are large enough for statistics at each time step, and loses where "
        "they are not.",
        ("000-13", "002-13"),
    ),
    Question(
        "length",
        "LayerNorm suits sequences of varying length. Is that because it does not depend on the batch size?",
        ("No: these are two separate properties", "Yes"),
        0,
        "Its independence of the length comes from one mean for each token. BatchNorm's trouble with length is "
        "padding in its statistics, and fewer sequences left at later steps, and a mask cures the first.",
        ("000-06", "001-18"),
    ),
    Question(
        "cost",
        "Which of the two costs less once the network is deployed?",
        ("LayerNorm: it keeps no running statistics", "BatchNorm: it can vanish into the layer before it", "Neither"),
        1,
        "With fixed statistics BatchNorm is a fixed scale and shift for each channel, which multiply into the weights "
        "before it: no cost is left. LayerNorm has to compute its mean and variance for every example.",
        ("000-11", "002-19"),
    ),
)
