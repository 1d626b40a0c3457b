// The layers of a training step on a CPU and its scan, each in one pass over memory. Matrix products are PyTorch's.
//
// Compiled at first use by training/model/kernels.py. Plain loops that a compiler turns into vector instructions; T is the
// type of the activations, bfloat16 or float, and all arithmetic is float. Where a loop needs random bits, it takes
// them from a hash of a seed and the element's index, so that backward sees the same ones without keeping them.

#include "arithmetic.hpp"

#include <cmath>
#include <vector>

namespace {

// The standard normal distribution at x, and e^(-x²/2) (Abramowitz and Stegun 7.1.26, absolute error 1e-7).
inline float normal(float x, float &density) {
    density = exponential(-0.5f * x * x);
    const float t = 1.0f / (1.0f + 0.23164189f * std::fabs(x));
    float p = 0.5307027145f;
    p = p * t - 0.7265760135f;
    p = p * t + 0.7107068705f;
    p = p * t - 0.142248368f;
    p = p * t + 0.1274147960f;
    const float tail = p * t * density;
    return x < 0 ? tail : 1.0f - tail;
}

// Chris Wellons' lowbias32 of the index, keyed by the seed.
inline uint32_t random_bits(uint32_t seed, uint32_t index) {
    uint32_t x = index * 0x9e3779b9u + seed;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
}

struct Dropout {
    uint32_t seed, below; // an element is dropped if its bits are below
    float scale;
    Dropout(int64_t seed, int64_t below, float scale) : seed(uint32_t(seed)), below(uint32_t(below)), scale(scale) {}
    float operator()(uint32_t index) const { return random_bits(seed, index) < below ? 0.0f : scale; }
};

// out = LayerNorm(x + dropout(y)); kept for backward: the normalised sum and 1/σ.
template <class T, int WIDTH>
void residual_norm_row(int64_t row, const float *x, const T *y, const float *weight, const float *bias, float epsilon,
                       Dropout drop, float *normalised, float *inverse, float *out, int64_t width) {
    const int64_t n = WIDTH ? WIDTH : width, at = row * n;
    float mean = 0, square = 0;
    float *s = normalised + at;
    for (int64_t i = 0; i < n; ++i) {
        s[i] = x[at + i] + load(y[at + i]) * drop(uint32_t(at + i));
        mean += s[i];
    }
    mean /= float(n);
    for (int64_t i = 0; i < n; ++i) {
        s[i] -= mean;
        square += s[i] * s[i];
    }
    const float r = 1.0f / std::sqrt(square / float(n) + epsilon);
    inverse[row] = r;
    for (int64_t i = 0; i < n; ++i) {
        s[i] *= r;
        out[at + i] = s[i] * weight[i] + bias[i];
    }
}

template <class T, int WIDTH>
void residual_norm_back_row(int64_t row, const float *grad, const float *weight, Dropout drop, const float *normalised,
                            const float *inverse, float *grad_x, T *grad_y, float *grad_weight, float *grad_bias,
                            int64_t width) {
    const int64_t n = WIDTH ? WIDTH : width, at = row * n;
    const float *s = normalised + at, *g = grad + at;
    float mean = 0, along = 0;
    for (int64_t i = 0; i < n; ++i) {
        grad_weight[i] += g[i] * s[i];
        grad_bias[i] += g[i];
        const float d = g[i] * weight[i];
        mean += d;
        along += d * s[i];
    }
    mean /= float(n);
    along /= float(n);
    for (int64_t i = 0; i < n; ++i) {
        const float d = inverse[row] * (g[i] * weight[i] - mean - s[i] * along);
        grad_x[at + i] = d;
        store(grad_y[at + i], d * drop(uint32_t(at + i)));
    }
}

template <class T>
void residual_norm(int64_t rows, int64_t width, const float *x, const T *y, const float *weight, const float *bias,
                   float epsilon, Dropout drop, float *normalised, float *inverse, float *out) {
    for (int64_t row = 0; row < rows; ++row)
        if (width == 64)
            residual_norm_row<T, 64>(row, x, y, weight, bias, epsilon, drop, normalised, inverse, out, width);
        else
            residual_norm_row<T, 0>(row, x, y, weight, bias, epsilon, drop, normalised, inverse, out, width);
}

template <class T>
void residual_norm_back(int64_t rows, int64_t width, const float *grad, const float *weight, Dropout drop,
                        const float *normalised, const float *inverse, float *grad_x, T *grad_y, float *grad_weight,
                        float *grad_bias) {
    for (int64_t row = 0; row < rows; ++row)
        if (width == 64)
            residual_norm_back_row<T, 64>(row, grad, weight, drop, normalised, inverse, grad_x, grad_y, grad_weight,
                                          grad_bias, width);
        else
            residual_norm_back_row<T, 0>(row, grad, weight, drop, normalised, inverse, grad_x, grad_y, grad_weight,
                                         grad_bias, width);
}

template <class T> void gelu(int64_t count, const T *x, Dropout drop, T *out) {
    for (int64_t i = 0; i < count; ++i) {
        float density;
        const float a = load(x[i]);
        store(out[i], a * normal(a, density) * drop(uint32_t(i)));
    }
}

template <class T> void gelu_back(int64_t count, const T *x, Dropout drop, const T *grad, T *grad_x) {
    for (int64_t i = 0; i < count; ++i) {
        float density;
        const float a = load(x[i]), below = normal(a, density);
        store(grad_x[i], load(grad[i]) * (below + 0.39894228f * a * density) * drop(uint32_t(i)));
    }
}

// h_t = λ h_{t-1} + u_t along each lane of a packed batch, real parts in the first half of a row.
template <class T>
void scan(int64_t steps, const int64_t *offsets, int64_t units, const float *decay, const T *inputs, T *states) {
    const float *real = decay, *imag = decay + units;
    std::vector<float> carry(2 * units);
    float *__restrict re = carry.data(), *__restrict im = re + units;
    const int64_t lanes = steps ? offsets[1] : 0;
    for (int64_t lane = 0; lane < lanes; ++lane) {
        std::fill(carry.begin(), carry.end(), 0.0f);
        for (int64_t t = 0; t < steps && lane < offsets[t + 1] - offsets[t]; ++t) {
            const T *u = inputs + 2 * units * (offsets[t] + lane);
            T *h = states + 2 * units * (offsets[t] + lane);
            for (int64_t i = 0; i < units; ++i) {
                const float a = real[i] * re[i] - imag[i] * im[i] + load(u[i]);
                const float b = real[i] * im[i] + imag[i] * re[i] + load(u[units + i]);
                re[i] = a;
                im[i] = b;
                store(h[i], a);
                store(h[units + i], b);
            }
        }
    }
}

// The adjoint: the recurrence backwards with the conjugate of λ, and the gradient of λ.
template <class T>
void scan_back(int64_t steps, const int64_t *offsets, int64_t units, const float *decay, const T *states, const T *grad,
               T *grad_inputs, float *grad_decay) {
    const float *real = decay, *imag = decay + units;
    float *__restrict grad_real = grad_decay, *__restrict grad_imag = grad_decay + units;
    std::vector<float> carry(2 * units);
    float *__restrict re = carry.data(), *__restrict im = re + units;
    const int64_t lanes = steps ? offsets[1] : 0;
    for (int64_t lane = 0; lane < lanes; ++lane) {
        std::fill(carry.begin(), carry.end(), 0.0f);
        int64_t t = 0;
        while (t < steps && lane < offsets[t + 1] - offsets[t]) ++t;
        while (t-- > 0) {
            const int64_t at = 2 * units * (offsets[t] + lane);
            const T *g = grad + at;
            T *d = grad_inputs + at;
            for (int64_t i = 0; i < units; ++i) {
                const float a = real[i] * re[i] + imag[i] * im[i] + load(g[i]);
                const float b = real[i] * im[i] - imag[i] * re[i] + load(g[units + i]);
                re[i] = a;
                im[i] = b;
                store(d[i], a);
                store(d[units + i], b);
            }
            if (t == 0) break;
            const T *h = states + 2 * units * (offsets[t - 1] + lane);
            for (int64_t i = 0; i < units; ++i) {
                grad_real[i] += re[i] * load(h[i]) + im[i] * load(h[units + i]);
                grad_imag[i] += im[i] * load(h[i]) - re[i] * load(h[units + i]);
            }
        }
    }
}

} // namespace

#define FOR_TYPE(NAME, T)                                                                                               \
    void residual_norm_##NAME(int64_t rows, int64_t width, const float *x, const T *y, const float *weight,            \
                              const float *bias, float epsilon, int64_t seed, int64_t below, float scale,              \
                              float *normalised, float *inverse, float *out) {                                         \
        residual_norm(rows, width, x, y, weight, bias, epsilon, Dropout(seed, below, scale), normalised, inverse,      \
                      out);                                                                                            \
    }                                                                                                                  \
    void residual_norm_back_##NAME(int64_t rows, int64_t width, const float *grad, const float *weight, int64_t seed,  \
                                   int64_t below, float scale, const float *normalised, const float *inverse,          \
                                   float *grad_x, T *grad_y, float *grad_weight, float *grad_bias) {                   \
        residual_norm_back(rows, width, grad, weight, Dropout(seed, below, scale), normalised, inverse, grad_x,        \
                           grad_y, grad_weight, grad_bias);                                                            \
    }                                                                                                                  \
    void gelu_##NAME(int64_t count, const T *x, int64_t seed, int64_t below, float scale, T *out) {                    \
        gelu(count, x, Dropout(seed, below, scale), out);                                                              \
    }                                                                                                                  \
    void gelu_back_##NAME(int64_t count, const T *x, int64_t seed, int64_t below, float scale, const T *grad,          \
                          T *grad_x) {                                                                                 \
        gelu_back(count, x, Dropout(seed, below, scale), grad, grad_x);                                                \
    }                                                                                                                  \
    void scan_##NAME(int64_t steps, const int64_t *offsets, int64_t units, const float *decay, const T *inputs,        \
                     T *states) {                                                                                      \
        scan(steps, offsets, units, decay, inputs, states);                                                            \
    }                                                                                                                  \
    void scan_back_##NAME(int64_t steps, const int64_t *offsets, int64_t units, const float *decay, const T *states,   \
                          const T *grad, T *grad_inputs, float *grad_decay) {                                          \
        scan_back(steps, offsets, units, decay, states, grad, grad_inputs, grad_decay);                                \
    }

extern "C" {
FOR_TYPE(bfloat16, bfloat16)
FOR_TYPE(float32, float)
}
