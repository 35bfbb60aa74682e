"""The outputs of frozen models for a batch: computed in every step, or stored.

The format of a store
=====================

A store is a folder with one model's answers (its outputs) for the images of one training split, at
one or more views. Runs write theirs below `config.store`, one folder per model and seed; a store
written by anything else, such as another framework, a proprietary model or an API, teaches as
`teachers=store:FOLDER`. It contains neither code nor a model's weights.

`python -m ktjax.targets views` writes the images that a model must answer, and
`python -m ktjax.targets pack` checks its answers and makes a store from them. By hand:

`store.json` is written first, and lists what the answers depend on. A run compares it with its own
data, and refuses the store if anything differs.

  format      1
  model       name, origin: in words. weights: their SHA-256, or null, and whatever else identifies
              this model
  images      of `examples` images: labels, pixels: SHA-256 of the int32 labels (-1: unlabeled) and
              of the pixels of 512 of the images, spread evenly; size, crop_pct, interpolation,
              crop_mode, fill, upright, crop_scale: how they are read; augment, seed: how views are
              made, as in configs. augment "plain": a single view, the images as used for
              evaluation; seed null
  classes     their names, in logit order
  k, ways     k: null, or how many of the largest logits are kept. ways: the [temperature,
              standardized] pairs for which the sum of the other classes is kept
  dtype       what the model computed in
  versions    of ktjax, jax, and the packages that decode and change images
  tune, validation   examples, labels, pixels of these splits; null if there are no answers for them

`view-00000.npy`, `view-00001.npy` and so on hold one row per image: row i belongs to the image
whose `index` is i. Files may be missing; the existing files determine which views there are.

  k null   float32 [examples, classes]: the logits as they were predicted
  k 16     records [examples], little-endian, of these fields:
           class         int16 [k] (int32 above 32,767 classes): the most probable ones, in order
           logit         float16 [k]: their logits minus the largest, so that the first is 0
           rest          float32 [ways]: log-sum-exp of the logits of all other classes minus the
                         largest, divided by the temperature, and first by the standard deviation
                         of all logits (at least 0.01) if they are standardized
           largest       float32: the largest logit
           mean          float32: of all logits minus the largest
           variance      float32: of all logits
           label_odds    float32: log p / (1 - p) of the label; -inf if it is unknown
           largest_odds  float32: log p / (1 - p) of the first class

`tune.npy` and `validation.npy` hold float32 [images, classes], all logits of the images as used for
evaluation, plain. If they are missing, what needs them (accuracy, complementary knowledge, the
ensemble, calibration, the order of teachers) is left blank, or refused if a decision depends on it.

Next to each `NAME.npy` is `NAME.sha256`, the SHA-256 of that file in hexadecimal, written before
it. Files get their name when they are complete (`os.replace`), so that readers only see complete
ones, and several processes may write one store at a time.

For ImageNet's subset (128,117 images, 20 views, 1,000 classes) a row of the 16 largest takes 88
bytes and the views 0.23 GB, compared to 10.25 GB for all logits. To either, tune and validation
(12,812 and 50,000 images) add 0.25 GB.

Measured on the embedded zoo (tiny_mlp from tiny_mixer as in configs/quickstart.py: 64,000 images,
5 epochs, one seed; change of accuracy on validation in points, standard error 0.12 to 0.16; the
size of each model's views):

                                                        kl  kl_dp           views
  each pass has its own view, all 100 logits         +0.14  +0.39          128 MB
  the same, the 16 largest                           +0.16  +0.33           28 MB
  one view for all passes (config.views=1)           +0.03  -0.06           26 MB
  a teacher that answered the plain images           -0.14  +0.06           26 MB

It matters that teacher and student share views ("consistent teaching", Beyer et al., arXiv
2106.05237), and that there are several. Between stored logits and those computed in batches of
another size, logits of up to 27 differ by 2e-5 at most, and none of the 64,000 decisions of a
partition differ, with or without labels, nor with the 16 largest.
"""
