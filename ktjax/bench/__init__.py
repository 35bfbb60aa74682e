"""How fast ktjax is: `python -m ktjax.bench NAME`.

What was tried to reduce waiting times, in seconds of CPU time on 2 cores with AVX-512 that were
shared with other work (jax 0.10.2), so that repetitions vary by 10 to 30 %. Images, weights and
results.json of the complementarity job have the same bits as before. For the cost of steps, see
step.py.

                                         predicted        measured
  random weights of 5 tiny networks:
    one program per shape                3 to 5           18.9 -> 17.4: not kept
    one compiled at XLA's level 0        -                6.4, but different bits: not kept
    at level 1                           -                9.0; of a ResNet-50 12.4 -> 6.9
  16,000 glyph images:
    64 in an array instead of 256        less             2.8 to 3.3 -> 1.8 to 2.0
    and channels before pixels, `take`   a fifth less     2.1 to 3.2 -> 1.6 to 1.9, of which 0.5 are
                                                          random numbers
  time that a checkpoint of a ResNet-50 blocks:
    checksums and Orbax in a thread      0.06 to 0.1      0.20 -> 0.04 (the first, with new memory,
                                                          0.15)
  silu in a network, with gradients:
    three rules for its gradient         a quarter less   2 to 5 % more (least of 7): not kept
    x / (1 + exp(-x)); by tanh           -                1 % more; 10 % more: not kept
  evaluation in batches of 64, not 512   -                tiny_vit 2.3 -> 1.7, most others the same:
                                                          not kept

The complementarity job of the embedded zoo takes 49, down from 59. Running 14 models on 16,000
images takes 19, compiling 12 (8 of these for the controls' weights; none at a second start),
tracing and loading 6, and images, imports and figures 3 each. So two idle cores need 25 s, if they
share all of it; reaching 15 would need fewer controls, which take a third of the 19. On a faster
machine (2 idle cores of an AMD EPYC, Zen 5) it took 19.8 seconds of wall time the first time and
15.9 the second; with stems as matrix products and networks described once, 15.2 and 14.5.

The quickstart (`quickstart`, 20 steps a run), without training and evaluation, took 54 the first
time: images 19 (21 to 23 before they were drawn as above), the first steps, which are compiled, 27,
imports 3 and the report 4. The second time took 29: images 18 and the first steps 3. Since images
are cached on disk, the second time takes 9.4 (predicted 11): images 0.3, imports 3, the first steps
2 and the report 2. That is 9.1 seconds of wall time on two idle cores, and 37 the first time. The
goals, 5 and 15, are not reached: on a slower machine, 27 of the first time's 52 were images, and 19
the compiled first steps. Since then one program serves all learning rates, and the pool has one of
its own (predicted: one of seven fewer): with the images on disk, 17.7 seconds of wall time the
first time, 12.8 of them compiling, and 10.5 the second. On the faster machine above that is 13.0,
9.8 of them compiling, and 7.3 the second.
"""
