// What torch leaves slow in a training step on a CPU: attention with dropout, dropout with its neighbours, layer norm of
// narrow rows. All in float32.
//
// No mask and no attention matrix is ever stored. A dropout decision is a hash of the seed and of its place, so the
// backward pass draws the same ones again; attention makes its weights again row by row, from the logarithm of the sum
// of each row's exponentials, all to base 2. Decisions are 32 bits wide: what is below `threshold` is dropped.
//
// Shape letters are those of modules/__init__.py, with S samples, c features a head and R rows. Features are
// contiguous.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

constexpr int64_t LANES = 16;
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint8_t bvec __attribute__((vector_size(LANES), aligned(1)));

constexpr ivec LANE{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

struct Key { uint32_t low, high; };

// SplitMix64 (Steele et al. 2014): the key of one row of decisions.
Key key_of(uint64_t seed, uint64_t row) {
    uint64_t z = seed + (row + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return {uint32_t(z), uint32_t(z >> 32)};
}

// `value` where the decisions of LANES places from `place` on are to keep, else 0. A decision is a hash of 32 bits: Weyl's
// sequence from the first half of the key on, then the rounds of Wellons' ("Prospecting for hash functions", 2018) with
// the second half between them. His last step mixes low bits alone, which decide nothing, and is left out.
inline vec keep(vec value, Key key, uint32_t place, uint32_t threshold) {
    constexpr uint32_t WEYL = 0x9e3779b9u;
    uvec x = (uvec)LANE * WEYL + (place * WEYL + key.low);
    x = (x ^ (x >> 16)) * 0x21f0aaadu + key.high;
    x = (x ^ (x >> 15)) * 0x735a2d97u;
    return x >= threshold ? value : vec{};
}

constexpr float LOG2_E = 1.44269504f;

// 2^x for x <= 0 to about 2.4e-7 relative; 0 below -126, and nan stays nan. The polynomial of degree 5 is the best one of 2^r
// in relative error, from -1/2 to 1/2.
inline vec exp2_nonpositive(vec x) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, which the low bits then hold
    const vec clamped = x < -126.0f ? vec{} - 126.0f : x;
    const vec rounded = clamped + magic, r = clamped - (rounded - magic);
    vec y = 1.3276472e-3f * r + 9.67554133e-3f;
    y = y * r + 5.55071327e-2f;
    y = y * r + 2.40221197e-1f;
    y = y * r + 6.93146967e-1f;
    y = y * r + 1.00000007f;
    const ivec power = ((ivec)rounded << 23) + (127 << 23);  // 2 to the whole number
    return x < -126.0f ? vec{} : y * (vec)power;
}

// A pair of halves, joined again and again: the sum or the maximum of all lanes.
template <typename Join>
inline float fold(vec x, Join join) {
    x = join(x, __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    x = join(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    x = join(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    return join(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14))[0];
}

inline float sum_of(vec x) {
    return fold(x, [](auto a, auto b) { return a + b; });
}

inline float max_of(vec x) {
    return fold(x, [](auto a, auto b) { return a > b ? a : b; });
}

// The sums of all lanes of `count` vectors of up to LANES, in as many lanes, for half the work of each sum by itself: two
// vectors become one, again and again, in which each has half its lanes.
inline vec sums_of(const vec *x, int64_t count) {
    vec half[LANES / 2], quarter[LANES / 4], eighth[LANES / 8];
    for (int64_t i = 0; i < count; i += 2) {
        const vec a = x[i], b = x[i + 1 < count ? i + 1 : i];
        half[i / 2] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
                    + __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    }
    for (int64_t i = 0; i < count; i += 4) {
        const vec a = half[i / 2], b = half[i + 2 < count ? i / 2 + 1 : i / 2];
        quarter[i / 4] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
                       + __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    }
    for (int64_t i = 0; i < count; i += 8) {
        const vec a = quarter[i / 4], b = quarter[i + 4 < count ? i / 4 + 1 : i / 4];
        eighth[i / 8] = __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29)
                      + __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
    }
    const vec a = eighth[0], b = eighth[count > 8 ? 1 : 0];
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
         + __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

}  // namespace

extern "C" {

struct Strides { int64_t sample, step, head; };

struct Attention {
    int64_t samples, heads, width, T_t, T_s, segments;
    const int64_t *lengths;  // (segments): steps of each segment of the source
    const float *q, *k, *v;
    Strides of_q, of_k, of_v;
    const uint8_t *hidden;  // (S, T_s) or null: not 0 where no target step sees a source step
    const int32_t *firsts;  // (T_t) or null: of a single segment, a target step sees only the steps from here on
    const int32_t *counts;  // (T_t, segments) or null: a target step sees only so many first steps of each segment
    float scale;
    uint32_t threshold;
    float keep_scale;
    uint64_t seed;
    float *out;  // (S, T_t, h, c)
    float *log_sum;  // (S, h, T_t)
    const float *grad_out;  // (S, T_t, h, c); what follows is null in the forward pass
    float *grad_q, *grad_k, *grad_v;
    Strides of_grad_q, of_grad_k, of_grad_v;
};

}  // extern "C"

namespace {

constexpr int64_t WIDEST = 64;  // features a head

// A segment of the source, loaded into blocks of its own.
struct Segment {
    int64_t length, first_step, first_block;
    int64_t first_visible;  // of its steps, in this sample
};

template <int WIDTH, bool JOINED>  // JOINED: the source has several segments
class Head {
  public:
    explicit Head(const Attention &a) : a(a), c(WIDTH ? WIDTH : a.width) {
        int64_t steps = 0, blocks = 0;
        for (int64_t n = 0; n < a.segments; ++n) {
            segments.push_back({a.lengths[n], steps, blocks, 0});
            steps += a.lengths[n];
            blocks += (a.lengths[n] + LANES - 1) / LANES;
        }
        k.resize(c * blocks), v.resize(c * blocks), weights.resize(blocks), visible.resize(blocks * LANES);
        if (a.grad_out) grad_k.resize(c * blocks), grad_v.resize(c * blocks);
        if (JOINED && !a.hidden) list_parts();  // they are those of every sample
    }

    void forward(int64_t sample, int64_t head) {
        load(sample, head);
        for (int64_t i = 0; i < a.T_t; ++i) {
            const float *q = a.q + at(a.of_q, sample, i, head);
            vec highest = vec{} - INFINITY;
            each_block(i, [&](int64_t b, int64_t seen) {
                const vec score = score_of(q, i, b, seen);
                weights[b] = score;
                highest = score > highest ? score : highest;
            });
            const float max = std::max(max_of(highest), std::numeric_limits<float>::lowest());  // finite: no inf - inf
            const Key key = key_of_row(sample, i, head);
            vec sum{}, totals[WIDTH ? WIDTH : WIDEST] = {};
            each_block(i, [&](int64_t b, int64_t) {
                vec weight = exp2_nonpositive(weights[b] - max);
                sum += weight;
                if (a.threshold) weight = keep(weight, key, uint32_t(b * LANES), a.threshold);
                for (int64_t f = 0; f < width(); ++f) totals[f] += weight * v[b * width() + f];
            });
            const float all = sum_of(sum), total = all == 0.0f ? 1.0f : all;  // a target step that sees nothing gets 0
            a.log_sum[(sample * a.heads + head) * a.T_t + i] = max + std::log2(total);
            float *out = a.out + dense(sample, i, head);
            write_sums(totals, a.keep_scale / total, out);
        }
    }

    void backward(int64_t sample, int64_t head) {
        load(sample, head);
        std::fill(grad_k.begin(), grad_k.end(), vec{});
        std::fill(grad_v.begin(), grad_v.end(), vec{});
        for (int64_t i = 0; i < a.T_t; ++i) {
            const float *q = a.q + at(a.of_q, sample, i, head);
            const float *out = a.out + dense(sample, i, head), *grad_out = a.grad_out + dense(sample, i, head);
            const float log_sum = a.log_sum[(sample * a.heads + head) * a.T_t + i];
            const Key key = key_of_row(sample, i, head);
            float inner = 0;  // the sum over source steps of weight times its gradient
            for (int64_t f = 0; f < width(); ++f) inner += out[f] * grad_out[f];
            vec totals[WIDTH ? WIDTH : WIDEST] = {};
            each_block(i, [&](int64_t b, int64_t seen) {
                const vec difference = score_of(q, i, b, seen) - log_sum;
                const vec weight = exp2_nonpositive(difference > 0.0f ? vec{} : difference);
                const vec mask = a.threshold ? keep(vec{} + a.keep_scale, key, uint32_t(b * LANES), a.threshold)
                                             : vec{} + 1.0f;
                vec grad{};  // of the weight after dropout
                for (int64_t f = 0; f < width(); ++f) grad += grad_out[f] * v[b * width() + f];
                const vec dropped = weight * mask;
                const vec grad_score = weight * (grad * mask - inner) * a.scale;
                for (int64_t f = 0; f < width(); ++f) {
                    const int64_t place = b * width() + f;
                    totals[f] += grad_score * k[place];
                    grad_k[place] += grad_score * q[f];
                    grad_v[place] += dropped * grad_out[f];
                }
            });
            float *grad_q = a.grad_q + at(a.of_grad_q, sample, i, head);
            write_sums(totals, 1.0f, grad_q);
        }
        store(grad_k, a.grad_k + at(a.of_grad_k, sample, 0, head), a.of_grad_k.step);
        store(grad_v, a.grad_v + at(a.of_grad_v, sample, 0, head), a.of_grad_v.step);
    }

  private:
    const Attention &a;
    const int64_t c;
    std::vector<Segment> segments;
    std::vector<vec> k, v;  // (blocks of LANES source steps, c)
    std::vector<vec> weights;  // of a row: (blocks)
    std::vector<uint8_t> visible;  // (blocks, LANES): of a sample's source steps, where some are hidden
    int64_t looked_at = -1;  // that sample
    std::vector<vec> grad_k, grad_v;  // (blocks, c)

    int64_t width() const { return WIDTH ? WIDTH : c; }
    bool windowed() const { return !JOINED && a.firsts; }

    static int64_t at(const Strides &strides, int64_t sample, int64_t step, int64_t head) {
        return sample * strides.sample + step * strides.step + head * strides.head;
    }

    int64_t dense(int64_t sample, int64_t step, int64_t head) const {
        return ((sample * a.T_t + step) * a.heads + head) * width();
    }

    Key key_of_row(int64_t sample, int64_t step, int64_t head) const {
        return key_of(a.seed, (sample * a.heads + head) * a.T_t + step);
    }

    void load(int64_t sample, int64_t head) {
        if (a.hidden && sample != looked_at) look_at(sample);
        for (const Segment &segment : segments)
            for (int64_t j = 0; j < segment.length; ++j)
                for (int64_t f = 0; f < width(); ++f) {
                    const int64_t place = (segment.first_block + j / LANES) * width() + f;
                    k[place][j % LANES] = a.k[at(a.of_k, sample, segment.first_step + j, head) + f];
                    v[place][j % LANES] = a.v[at(a.of_v, sample, segment.first_step + j, head) + f];
                }
    }

    void look_at(int64_t sample) {
        for (Segment &segment : segments) {
            const uint8_t *hidden = a.hidden + sample * a.T_s + segment.first_step;
            for (int64_t j = 0; j < segment.length; ++j) visible[segment.first_block * LANES + j] = !hidden[j];
            segment.first_visible = std::find(hidden, hidden + segment.length, 0) - hidden;
        }
        if (JOINED) list_parts();
        looked_at = sample;
    }

    void store(const std::vector<vec> &grad, float *to, int64_t stride) const {
        for (const Segment &segment : segments)
            for (int64_t j = 0; j < segment.length; ++j)
                for (int64_t f = 0; f < width(); ++f)
                    to[(segment.first_step + j) * stride + f] =
                        grad[(segment.first_block + j / LANES) * width() + f][j % LANES];
    }

    void write_sums(const vec *totals, float factor, float *to) const {
        for (int64_t f = 0; f < width(); f += LANES) {
            const int64_t count = std::min(LANES, width() - f);
            const vec sums = sums_of(totals + f, count) * factor;
            __builtin_memcpy(to + f, &sums, count * sizeof(float));
        }
    }

    // A block in which a target step sees something: its first `seen` lanes at most.
    struct Part { int32_t block, seen; };

    std::vector<Part> parts;  // that the target steps see, one after the other, where there are several segments
    std::vector<int64_t> starts;  // in `parts`, of each target step

    void list_parts() {
        parts.clear(), starts.assign(1, 0);
        for (int64_t i = 0; i < a.T_t; ++i) {
            for (int64_t n = 0; n < a.segments; ++n)
                each_of_segment(n, i, [&](int64_t b, int64_t seen) { parts.push_back({int32_t(b), int32_t(seen)}); });
            starts.push_back(parts.size());
        }
    }

    // Calls function(block, seen) for each block in which target step i sees something: its first `seen` lanes at most.
    // A list spares short segments the ends of many short loops; it would slow down long ones.
    template <typename Function>
    inline void each_block(int64_t i, Function function) const {
        if constexpr (!JOINED) each_of_segment(0, i, function);
        else {
            const Part *last = parts.data() + starts[i + 1];
            for (const Part *part = parts.data() + starts[i]; part < last; ++part) function(part->block, part->seen);
        }
    }

    template <typename Function>
    inline void each_of_segment(int64_t n, int64_t i, Function function) const {
        const Segment &segment = segments[n];
        const int64_t last = a.counts ? a.counts[i * a.segments + n] : segment.length;
        const int64_t first = windowed() ? std::max<int64_t>(a.firsts[i], segment.first_visible) : segment.first_visible;
        if (first >= last) return;
        for (int64_t b = first / LANES; b * LANES < last; ++b)
            function(segment.first_block + b, last - b * LANES);
    }

    vec score_of(const float *q, int64_t i, int64_t block, int64_t seen_lanes) const {
        vec score{};
        for (int64_t f = 0; f < width(); ++f) score += q[f] * k[block * width() + f];
        ivec seen = LANE < int32_t(seen_lanes);
        if (windowed()) seen &= LANE >= int32_t(a.firsts[i] - block * LANES);
        if (a.hidden) seen &= __builtin_convertvector(*(const bvec *)(&visible[block * LANES]), ivec) != 0;
        return seen ? score * (a.scale * LOG2_E) : vec{} - INFINITY;
    }
};

template <int WIDTH, bool JOINED>
void run_heads(const Attention &a, bool backward, int threads) {
    #pragma omp parallel num_threads(threads)
    {
        Head<WIDTH, JOINED> worker(a);
        #pragma omp for
        for (int64_t n = 0; n < a.samples * a.heads; ++n) {
            if (backward) worker.backward(n / a.heads, n % a.heads);
            else worker.forward(n / a.heads, n % a.heads);
        }
    }
}

template <int WIDTH>
void run(const Attention &a, bool backward, int threads) {
    a.segments > 1 ? run_heads<WIDTH, true>(a, backward, threads) : run_heads<WIDTH, false>(a, backward, threads);
}

constexpr int64_t ROW = 1 << 14;  // elements that share a key

// out = function(i, vec of in) * mask * scale, LANES elements at a time
template <typename Function>
void with_dropout(int64_t size, uint32_t threshold, uint64_t seed, int threads, Function function) {
    #pragma omp parallel for num_threads(threads)
    for (int64_t start = 0; start < size; start += ROW) {
        const Key key = key_of(seed, start / ROW);
        const int64_t end = std::min(size, start + ROW);
        for (int64_t i = start; i < end; i += LANES) {
            const int64_t count = std::min(LANES, end - i);
            function(i, count, [=](vec value) { return keep(value, key, uint32_t(i - start), threshold); });
        }
    }
}

inline vec read(const float *from, int64_t count) {
    vec value{};
    if (count == LANES) __builtin_memcpy(&value, from, sizeof value);
    else for (int64_t i = 0; i < count; ++i) value[i] = from[i];
    return value;
}

inline void write(float *to, vec value, int64_t count) {
    if (count == LANES) __builtin_memcpy(to, &value, sizeof value);
    else for (int64_t i = 0; i < count; ++i) to[i] = value[i];
}

// A row of `width` numbers in PARTS vectors. The last vector ends with the row, and so may repeat some of the one before.
template <int PARTS>
struct Row {
    vec part[PARTS] = {};

    static int64_t offset(int b, int64_t width) { return b < PARTS - 1 ? b * LANES : width - LANES; }

    static Row load(const float *from, int64_t width) {
        Row row;
        for (int b = 0; b < PARTS; ++b) __builtin_memcpy(&row.part[b], from + offset(b, width), sizeof(vec));
        return row;
    }

    void store(float *to, int64_t width) const {
        for (int b = 0; b < PARTS; ++b) __builtin_memcpy(to + offset(b, width), &part[b], sizeof(vec));
    }

    float mean(int64_t width) const {
        vec sum = LANE >= int32_t(PARTS * LANES - width) ? part[PARTS - 1] : vec{};
        for (int b = 0; b < PARTS - 1; ++b) sum += part[b];
        return sum_of(sum) / width;
    }
};

template <typename Function, int PARTS, typename... Rows>
Row<PARTS> map(Function function, const Row<PARTS> &first, const Rows &...rest) {
    Row<PARTS> result;
    for (int b = 0; b < PARTS; ++b) result.part[b] = function(first.part[b], rest.part[b]...);
    return result;
}

constexpr int64_t NORM_ROWS = 128;  // rows in a chunk

}  // namespace

extern "C" {

struct Norm {
    int64_t rows, width;
    const float *x;  // (R, d)
    const float *weight, *bias;  // (d)
    float eps;
    float *statistics;  // (R, 2): mean, and inverse of the standard deviation
    float *out;  // (R, d)
    const float *grad_out;  // (R, d); what follows is null in the forward pass
    float *grad_x;  // (R, d)
    float *grad_weight, *grad_bias;  // (chunks of rows, d), to be summed over the chunks
};

}  // extern "C"

namespace {

template <int PARTS>
void norm_forward(const Norm &n, int64_t first, int64_t last) {
    const auto weight = Row<PARTS>::load(n.weight, n.width);
    const auto bias = Row<PARTS>::load(n.bias, n.width);
    for (int64_t r = first; r < last; ++r) {
        const auto row = Row<PARTS>::load(n.x + r * n.width, n.width);
        const float mean = row.mean(n.width);
        const auto centred = map([=](vec x) { return x - mean; }, row);
        const float variance = map([](vec x) { return x * x; }, centred).mean(n.width);
        const float inverse = 1 / std::sqrt(variance + n.eps);
        map([=](vec x, vec w, vec b) { return x * inverse * w + b; }, centred, weight, bias)
            .store(n.out + r * n.width, n.width);
        n.statistics[2 * r] = mean;
        n.statistics[2 * r + 1] = inverse;
    }
}

template <int PARTS>
void norm_backward(const Norm &n, int64_t first, int64_t last, int64_t chunk) {
    const auto weight = Row<PARTS>::load(n.weight, n.width);
    Row<PARTS> grad_weight, grad_bias;
    for (int64_t r = first; r < last; ++r) {
        const float mean = n.statistics[2 * r], inverse = n.statistics[2 * r + 1];
        const auto grad = Row<PARTS>::load(n.grad_out + r * n.width, n.width);
        const auto normed = map([=](vec x) { return (x - mean) * inverse; }, Row<PARTS>::load(n.x + r * n.width, n.width));
        const auto scaled = map([](vec g, vec w) { return g * w; }, grad, weight);
        const float level = scaled.mean(n.width);
        const float slope = map([](vec s, vec x) { return s * x; }, scaled, normed).mean(n.width);
        map([=](vec s, vec x) { return (s - level - x * slope) * inverse; }, scaled, normed)
            .store(n.grad_x + r * n.width, n.width);
        grad_weight = map([](vec sum, vec g, vec x) { return sum + g * x; }, grad_weight, grad, normed);
        grad_bias = map([](vec sum, vec g) { return sum + g; }, grad_bias, grad);
    }
    grad_weight.store(n.grad_weight + chunk * n.width, n.width);
    grad_bias.store(n.grad_bias + chunk * n.width, n.width);
}

template <int PARTS>
void run_norm(const Norm &n, int threads) {
    const int64_t chunks = (n.rows + NORM_ROWS - 1) / NORM_ROWS;
    #pragma omp parallel for num_threads(threads)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t first = chunk * NORM_ROWS, last = std::min(first + NORM_ROWS, n.rows);
        if (n.grad_out) norm_backward<PARTS>(n, first, last, chunk);
        else norm_forward<PARTS>(n, first, last);
    }
}

}  // namespace

extern "C" {

void attention(const Attention *a, int backward, int threads) {
    switch (a->width) {
        case 4: return run<4>(*a, backward, threads);
        case 5: return run<5>(*a, backward, threads);
        case 6: return run<6>(*a, backward, threads);
        case 8: return run<8>(*a, backward, threads);
        case 10: return run<10>(*a, backward, threads);
        case 12: return run<12>(*a, backward, threads);
        default: return run<0>(*a, backward, threads);
    }
}

// out = x + branch * mask * scale; without the sum where x is null
void add_dropout(const float *x, const float *branch, float *out, int64_t size, uint32_t threshold, float scale,
                 uint64_t seed, int threads) {
    with_dropout(size, threshold, seed, threads, [=](int64_t i, int64_t count, auto keep) {
        const vec value = keep(read(branch + i, count) * scale);
        write(out + i, x ? read(x + i, count) + value : value, count);
    });
}

// out = relu(x) * mask * scale
void relu_dropout(const float *x, float *out, int64_t size, uint32_t threshold, float scale, uint64_t seed,
                  int threads) {
    with_dropout(size, threshold, seed, threads, [=](int64_t i, int64_t count, auto keep) {
        const vec value = read(x + i, count);
        write(out + i, keep(value < 0.0f ? vec{} : value * scale), count);
    });
}

// grad_x = grad * scale where out, of relu_dropout, is not 0
void relu_dropout_backward(const float *grad, const float *out, float *grad_x, int64_t size, float scale, int threads) {
    #pragma omp parallel for num_threads(threads)
    for (int64_t start = 0; start < size; start += ROW)
        for (int64_t i = start; i < std::min(size, start + ROW); i += LANES) {
            const int64_t count = std::min(LANES, size - i);
            write(grad_x + i, read(out + i, count) != 0.0f ? read(grad + i, count) * scale : vec{}, count);
        }
}

// Layer norm over `width` features, 16 to 128.
void layer_norm(const Norm *n, int threads) {
    switch ((n->width + LANES - 1) / LANES) {
        case 1: return run_norm<1>(*n, threads);
        case 2: return run_norm<2>(*n, threads);
        case 3: return run_norm<3>(*n, threads);
        case 4: return run_norm<4>(*n, threads);
        case 5: return run_norm<5>(*n, threads);
        case 6: return run_norm<6>(*n, threads);
        case 7: return run_norm<7>(*n, threads);
        case 8: return run_norm<8>(*n, threads);
    }
}

}  // extern "C"
