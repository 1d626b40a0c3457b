// Numbers as the compiled kernels read, compute and write them: all arithmetic is float.

#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

struct bfloat16 { uint16_t bits; };

inline float load(float x) { return x; }
inline float load(bfloat16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }
inline void store(float &to, float x) { to = x; }
inline void store(bfloat16 &to, float x) { // to the nearest, ties to even
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    to.bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x for x <= 88, relative error 2e-7; 0 below -87.
inline float exponential(float x) {
    const float t = std::max(x, -87.5f) * 1.44269504f;
    const float whole = __builtin_rintf(t), rest = t - whole;
    float p = 1.5403530e-4f;
    p = p * rest + 1.3333558e-3f;
    p = p * rest + 9.6181291e-3f;
    p = p * rest + 5.5504109e-2f;
    p = p * rest + 2.4022651e-1f;
    p = p * rest + 6.9314718e-1f;
    p = p * rest + 1.0f;
    const float scale = std::bit_cast<float>((int32_t(whole) + 127) << 23);
    return x < -87.0f ? 0.0f : p * scale;
}
