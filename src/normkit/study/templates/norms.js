"use strict";
// What each norm does to a small tensor. Pure functions; a test holds them to normkit.reference.
const Norms = (() => {
  // Values lie as (example, position, channel): a position is a time step or a pixel, and an (N, C) tensor has one.
  const SHAPES = {
    nc: { name: "(N, C)", sizes: [4, 1, 6], grid: [1, 1], words: "4 examples of 6 features" },
    ntc: { name: "(N, T, C)", sizes: [3, 4, 6], grid: [4, 1], words: "3 sequences of 4 tokens with 6 channels" },
    nchw: { name: "(N, C, H, W)", sizes: [3, 6, 4], grid: [2, 3], words: "3 images of 4 channels, 2 × 3 pixels each" },
  };
  const GROUPS = 2;

  // key: which cells share a mean and a variance, as a label. centred: whether the mean is taken away.
  const NORMS = {
    batch: { name: "BatchNorm", key: (n, p, c) => `channel ${c}`, words: "one channel, over all examples and positions" },
    layer: {
      name: "LayerNorm",
      key: (n, p, c, shape) => (shape === "ntc" ? `example ${n}, token ${p}` : `example ${n}`),
      words: "all channels of one example; of one token in a sequence",
    },
    rms: {
      name: "RMSNorm",
      key: (n, p, c, shape) => (shape === "ntc" ? `example ${n}, token ${p}` : `example ${n}`),
      centred: false,
      words: "as LayerNorm, and the mean stays",
    },
    group: {
      name: "GroupNorm, 2 groups",
      key: (n, p, c, shape) => `example ${n}, group ${Math.floor((c * GROUPS) / SHAPES[shape].sizes[2])}`,
      words: "half of the channels of one example, over its positions",
    },
    instance: {
      name: "InstanceNorm",
      key: (n, p, c) => `example ${n}, channel ${c}`,
      words: "one channel of one example, over its positions",
    },
    layer2d: {
      name: "LayerNorm2d",
      key: (n, p) => `example ${n}, pixel ${p}`,
      shapes: ["nchw"],
      words: "all channels of one pixel",
    },
    "read-feature": {
      name: "a mean for each feature of an example",
      key: (n, p, c) => `example ${n}, position ${p}, feature ${c}`,
      reading: "001-03",
      words: "one number by itself, if each feature of an example has a mean of its own",
    },
    "read-whole": {
      name: "one mean for the whole batch",
      key: () => "the batch",
      reading: "000-05",
      words: "every number of the batch, if nobody says “for each feature”",
    },
    "read-channel": {
      name: "each channel as a sample of its own",
      key: (n, p, c) => `example ${n}, channel ${c}`,
      reading: "001-09",
      shapes: ["nchw"],
      words: "one channel of one example: this is InstanceNorm and not LayerNorm",
    },
    "read-alike": {
      name: "one distribution for all neurons",
      key: (n, p, c) => `channel ${c}`,
      reading: "001-04",
      words: "one channel over all examples, for only so do all neurons come to one mean and spread; this is BatchNorm",
    },
    "read-example": {
      name: "a mean for each whole example",
      key: (n) => `example ${n}`,
      reading: "000-17",
      shapes: ["ntc"],
      words: "a whole sequence, padding and later tokens included; a transformer's LayerNorm takes one token",
    },
  };

  const serves = (norm, shape) => !NORMS[norm].shapes || NORMS[norm].shapes.includes(shape);
  const place = (shape, n, p, c) => (n * SHAPES[shape].sizes[1] + p) * SHAPES[shape].sizes[2] + c;

  // Sums as a careful person does them: the mean first, then squared distances from it.
  function moments(values) {
    const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
    const variance = values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length;
    return { mean, variance, square: variance + mean * mean };
  }

  function normalize(norm, shape, values, { eps = 1e-5, gamma = 1, beta = 0 } = {}) {
    const [N, P, C] = SHAPES[shape].sizes;
    const { key, centred = true } = NORMS[norm];
    const members = new Map(); // label -> places
    const label = [];
    for (let n = 0; n < N; n++) {
      for (let p = 0; p < P; p++) {
        for (let c = 0; c < C; c++) {
          const at = place(shape, n, p, c);
          label[at] = key(n, p, c, shape);
          if (!members.has(label[at])) members.set(label[at], []);
          members.get(label[at]).push(at);
        }
      }
    }
    const groups = new Map();
    const y = [];
    for (const [name, places] of members) {
      const { mean, variance, square } = moments(places.map((at) => values[at]));
      const spread = Math.sqrt((centred ? variance : square) + eps);
      groups.set(name, { places, mean, variance, square, spread, centred });
      for (const at of places) y[at] = ((values[at] - (centred ? mean : 0)) / spread) * gamma + beta;
    }
    return { y, label, groups };
  }

  // Mean and variance of each channel over all examples and positions: what a neuron's values are like.
  function neurons(shape, values) {
    const [N, P, C] = SHAPES[shape].sizes;
    return [...Array(C).keys()].map((c) => moments([...Array(N * P).keys()].map((row) => values[row * C + c])));
  }

  // BatchNorm's running average: torch's update, with the unbiased variance.
  function running(batches, momentum) {
    const history = [];
    let mean = 0;
    let variance = 1;
    for (const batch of batches) {
      const { mean: m, variance: v } = moments(batch);
      mean += momentum * (m - mean);
      variance += momentum * ((v * batch.length) / (batch.length - 1) - variance);
      history.push({ batchMean: m, batchVariance: v, mean, variance });
    }
    return history;
  }

  return { SHAPES, NORMS, serves, place, moments, normalize, neurons, running };
})();
