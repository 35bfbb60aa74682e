"""How fast ktjax is: `python -m ktjax.bench NAME`.

What was tried for those who wait, what it was to give, and what it gave: seconds of CPU time on 2
shared cores with AVX-512 (jax 0.10.2), before and after in turns; other work makes them 10 to 30 %
more than they are alone. Nothing of it changes results.json by a bit. What steps cost is in step.py.

                                                  predicted           measured
  random weights of 5 tiny networks               a third, by a       18.9 -> 9.0 at XLA's level 1, the
                                                  program a shape     same bits; a program for each shape
                                                                      17.4; level 0 6.9, other bits
  random weights of a ResNet-50                   half                12.4 -> 6.9
  a glyph image, of 256 in an array, 64           no less             157 to 200 -> 105 to 113 us
  the same, channels before pixels, `take`        half                -> 100 us: 32 are random numbers
  a checkpoint of a ResNet-50: what holds up      0.02, a copy        0.20 -> 0.04 (the first 0.15), all
                                                                      else in a thread
  silu by a rule for its gradient (three forms),  as gelu: a quarter  within 2 %, tanh 10 % slower: not
  by tanh, by a quotient, in a network                                kept
  evaluation in batches of 64, not of 512         less                tiny_vit 2.25 -> 1.72 for 16,000,
                                                                      tiny_resnet the same: not kept

The complementarity job of the embedded zoo takes 59 -> 49 s: asking 14 models about 16,000 images
19, of which the device is never idle; their programs 5 and the controls' weights 8 to 9, both gone
at a second start; tracing 5, imports 3, figures 3, images 3. So two idle cores need 25 s at least,
not the 15 that were asked for, unless the controls (a third of the asking) are left out.

`quickstart` has what its user waits for beside training, before glyphs were drawn faster: of 54
the first time 23 are images, 25 the compiled steps of its objectives (3 the second time), 3 imports
and 2 the report; the second time 31.
"""
