"""How fast ktjax is: `python -m ktjax.bench NAME`.

What was tried for those who wait, in seconds of CPU time on 2 cores with AVX-512 that others used,
too (jax 0.10.2), so that the same takes 10 to 30 % more or less the next time. Images, weights and
results.json of the complementarity job have the same bits as before. What steps cost: step.py.

                                         predicted        measured
  random weights of 5 tiny networks:
    a program for each shape             3 to 5           18.9 -> 17.4: not kept
    one compiled at XLA's level 0        -                6.4, but other bits: not kept
    at level 1                           -                9.0; of a ResNet-50 12.4 -> 6.9
  16,000 glyph images:
    64 in an array, that were 256        less             2.8 to 3.3 -> 1.8 to 2.0
    and channels before pixels, `take`   a fifth less     2.1 to 3.2 -> 1.6 to 1.9, of which 0.5 are
                                                          random numbers
  what a checkpoint of a ResNet-50 holds up:
    checksums and Orbax in a thread      0.06 to 0.1      0.20 -> 0.04 (the first, whose memory is
                                                          new, 0.15)
  silu in a network, with gradients:
    three rules for its gradient         a quarter less   2 to 5 % more (least of 7): not kept
    x / (1 + exp(-x)); by tanh           -                1 % more; 10 % more: not kept
  evaluation in batches of 64, not 512   -                tiny_vit 2.3 -> 1.7, most others the same:
                                                          not kept

The complementarity job of the embedded zoo takes 49, where it took 59. 19 are what 14 models say of
16,000 images, 12 are compiling (8 of these the controls' weights; none of it at a second start), 6
tracing and loading, and images, imports and figures 3 each. So two idle cores need 25 s, if they
share all of it; 15 would take fewer controls, which are a third of the 19.

The quickstart (`quickstart`, 20 steps a run), beside training and evaluation: 54 the first time, 19
of it images (21 to 23 before they were drawn as above), 27 the first steps, which are compiled, 3
imports and 4 the report; 29 the second time, 18 of it images and 3 the first steps. Since images
stay on disk, the second time takes 9.4 (predicted 11), 0.3 of it images, 3 imports, 2 the first
steps and 2 the report: 9.1 seconds of the clock on two idle cores, the first time 37. The goals, 5
and 15, are not reached: 27 of the first time's 52 were images, on a slower machine, and 19 the
compiled first steps.
"""
