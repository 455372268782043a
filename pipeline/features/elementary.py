"""Logarithm and exponential of an array, and a sine, from IEEE additions, multiplications and divisions alone.

Unlike the C library's they give the same bits on every machine; those of an array are several times as fast.
"""

import math

import numpy as np

from pipeline.features.rolling import Floats, compile_kernel

LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # ln 2 in two parts
LN2 = 6.93147180559945286227e-01
SQRT_HALF_BITS, ONE_EXPONENT, MANTISSA_BITS = 0x3FE6A09E667F3BCD, 1023, 52


@compile_kernel
def fill_log(values: Floats, result: Floats) -> None:
    """Fill `result` with the logarithm of `values` (normal, above 0), within one unit in the last place.

    With x = 2^k (1 + f), √½ <= 1 + f < √2, and s = f / (2 + f): ln(1 + f) = 2 artanh s, a polynomial in s².
    Source: Sun's fdlibm, e_log.c.
    """
    bits, reduced = values.view(np.int64), result.view(np.int64)
    for i in range(len(values)):
        power = (bits[i] - SQRT_HALF_BITS) >> MANTISSA_BITS
        reduced[i] = bits[i] - (power << MANTISSA_BITS)
        f = result[i] - 1.0
        s = f / (2.0 + f)
        z = s * s
        w = z * z
        odd = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01))
        even = 2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)
        even = z * (6.666666666666735130e-01 + w * even)
        half = 0.5 * f * f
        result[i] = power * LN2_HIGH - ((half - (s * (half + odd + even) + power * LN2_LOW)) - f)


@compile_kernel
def fill_exp(values: Floats, result: Floats) -> None:
    """Fill `result` with e to the power of `values` (within ±700), within one unit in the last place.

    With x = k ln 2 + r, |r| <= ½ ln 2, and c = r minus a polynomial in r²: e^r = 1 + r + r c / (2 - c).
    Source: Sun's fdlibm, e_exp.c.
    """
    scale = result.view(np.int64)
    for i in range(len(values)):
        k = math.floor(values[i] / LN2 + 0.5)
        high, low = values[i] - k * LN2_HIGH, k * LN2_LOW
        r = high - low
        t = r * r
        c = 6.61375632143793436117e-05 + t * (-1.65339022054652515390e-06 + t * 4.13813679705723846039e-08)
        c = r - t * (1.66666666666666019037e-01 + t * (-2.77777777770155933842e-03 + t * c))
        scale[i] = (int(k) + ONE_EXPONENT) << MANTISSA_BITS
        result[i] *= 1.0 - ((low - r * c / (2.0 - c)) - high)


@compile_kernel
def sine_of_turns(turns: float) -> float:
    """Return sin(2π · turns) for turns of 0 or more, within a few units in the last place; + 0.25 gives the cosine.

    The rest of the nearest quarter turn lies within ± π / 4, where polynomials hold. Source: Sun's fdlibm, k_sin.c and
    k_cos.c.
    """
    quarter = math.floor(4.0 * turns + 0.5)
    x = (turns - 0.25 * quarter) * (2.0 * math.pi)
    z = x * x
    if int(quarter) % 2 == 0:
        series = -1.98412698298579493134e-04 + z * (2.75573137070700676789e-06 + z * (-2.50507602534068634195e-08))
        value = x + x * z * (-1.66666666666666324348e-01 + z * (8.33333333332248946124e-03 + z * series))
    else:
        series = 2.48015872894767294178e-05 + z * (-2.75573143513906633035e-07 + z * 2.08757232129817482790e-09)
        series = 4.16666666666666019037e-02 + z * (-1.38888888888741095749e-03 + z * series)
        value = 1.0 - (0.5 * z - z * z * series)
    return value if int(quarter) % 4 < 2 else 0.0 - value
