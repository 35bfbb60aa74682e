"""Fourier transforms, and complex numbers as pairs of real ones."""

import jax
import jax.numpy as jnp

# torch's numbers for the scale of a transform: none, the root of its size, its size.
_FORWARD = ("backward", "ortho", "forward")
_INVERSE = ("forward", "ortho", "backward")


def _r2c(x, dims, normalization, onesided):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if onesided:
        return jnp.fft.rfftn(wide, axes=dims, norm=_FORWARD[normalization])
    return jnp.fft.fftn(wide, axes=dims, norm=_FORWARD[normalization])


def _c2r(x, dims, normalization, last_dim_size):
    sizes = [*(x.shape[dim] for dim in dims[:-1]), last_dim_size]
    return jnp.fft.irfftn(x, s=sizes, axes=dims, norm=_INVERSE[normalization])


def _c2c(x, dims, normalization, forward):
    if forward:
        return jnp.fft.fftn(x, axes=dims, norm=_FORWARD[normalization])
    return jnp.fft.ifftn(x, axes=dims, norm=_INVERSE[normalization])


def _as_complex(x):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jax.lax.complex(wide[..., 0], wide[..., 1])


def _as_real(x):
    return jnp.stack([x.real, x.imag], axis=-1)


OPERATIONS = {
    "_fft_c2c": _c2c,
    "_fft_c2r": _c2r,
    "_fft_r2c": _r2c,
    "view_as_complex": _as_complex,
    "view_as_real": _as_real,
}
