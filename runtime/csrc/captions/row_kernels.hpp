/// Arithmetic on one row of floats, for one instruction set: see vectors.hpp. What a set has faster versions
/// of stands beside it, row_kernels_avx512.hpp and quantise_avx2.hpp.

/// 1.5 * 2^23: added to a float of at most 2^22 in size, it rounds it to a whole number and leaves that in
/// the low bits.
constexpr float kRound = 12582912.0f;

/// The first `count` lanes from memory, `fill` in the others; a template, so that a plain function of the
/// same name that an instruction set declares before is preferred.
template <class Number>
YE_INLINE Floats load_part(const float* from, Number count, float fill) {
    float values[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) values[i] = i < count ? from[i] : fill;
    return load(values);
}

template <class Number>
YE_INLINE void store_part(float* to, Number count, const Floats& lanes) {
    float values[kLanes];
    store(values, lanes);
    for (int64_t i = 0; i < count; ++i) to[i] = values[i];
}

template <int kCount = kLanes>
YE_INLINE float sum_of(const typename Vector<kCount>::Floats& lanes) {
    if constexpr (kCount > 2) {
        using Half = typename Vector<kCount / 2>::Floats;
        return sum_of<kCount / 2>(half_of<0, Half>(lanes) + half_of<1, Half>(lanes));
    } else {
        return lanes[0] + lanes[1];
    }
}

template <int kCount = kLanes>
YE_INLINE float max_of(const typename Vector<kCount>::Floats& lanes) {
    if constexpr (kCount > 2) {
        using Half = typename Vector<kCount / 2>::Floats;
        const Half low = half_of<0, Half>(lanes), high = half_of<1, Half>(lanes);
        return max_of<kCount / 2>(low > high ? low : high);
    } else {
        return lanes[0] > lanes[1] ? lanes[0] : lanes[1];
    }
}

/// e^x within two units in the last place for x in [-87, 0]; smaller x give e^-87, NaN stays. Range reduction
/// and coefficients after Cephes' expf (S. Moshier, netlib.org/cephes).
YE_INLINE Floats exp_of(const Floats& exponents) {
    const Floats zero = {};
    const Floats lowest = zero - 87.0f;
    const Floats x = exponents < lowest ? lowest : exponents;
    const Floats shifted = x * 1.44269504f + kRound;
    const Floats whole = shifted - kRound;
    const Floats rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Floats sum = zero + 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    Integers power;
    std::memcpy(&power, &shifted, sizeof power);
    power = ((power - 0x4B400000) + 127) << 23;  // 0x4B400000: the bits of kRound
    Floats scale;
    std::memcpy(&scale, &power, sizeof scale);
    return sum * scale;
}

YE_INLINE float dot(const float* a, const float* b, int64_t n) {
    Floats sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
        for (int part = 0; part < 4; ++part) {
            const int64_t at = i + part * kLanes;
            sums[part] += load(a + at) * load(b + at);
        }
    }
    for (; i + kLanes <= n; i += kLanes) sums[0] += load(a + i) * load(b + i);
    float total = sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < n; ++i) total += a[i] * b[i];
    return total;
}

/// y += factor * x
YE_INLINE void add_scaled(float* y, float factor, const float* x, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(y + i, load(y + i) + load(x + i) * factor);
    for (; i < n; ++i) y[i] += x[i] * factor;
}

YE_INLINE void scale(float* x, float factor, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(x + i, load(x + i) * factor);
    for (; i < n; ++i) x[i] *= factor;
}

/// Of every head, the product of its parts of two rows; that of head h goes to out[h * stride].
YE_INLINE void head_dots(const float* a, const float* b, int64_t heads, int64_t depth, float* out,
                         int64_t stride) {
    for (int64_t head = 0; head < heads; ++head)
        out[head * stride] = dot(a + head * depth, b + head * depth, depth);
}

/// Of every head, the sum of its parts of `count` rows, which begin at rows[where[t]], each times the head's
/// factor for it, factors[h * stride + t].
YE_INLINE void head_sums(const float* factors, int64_t stride, const float* rows, const int64_t* where,
                         int64_t count, int64_t heads, int64_t depth, float* out) {
    for (int64_t head = 0; head < heads; ++head) {
        const float* own = factors + head * stride;
        int64_t i = head * depth;
        for (; i + kLanes <= (head + 1) * depth; i += kLanes) {
            Floats sum = {};
            for (int64_t t = 0; t < count; ++t) sum += load(rows + where[t] + i) * own[t];
            store(out + i, sum);
        }
        for (; i < (head + 1) * depth; ++i) {
            out[i] = 0.0f;
            for (int64_t t = 0; t < count; ++t) out[i] += rows[where[t] + i] * own[t];
        }
    }
}

/// max(x, 0); NaN stays.
YE_INLINE void relu(float* x, int64_t n) {
    const Floats zero = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const auto lanes = load(x + i);
        store(x + i, lanes < zero ? zero : lanes);
    }
    for (; i < n; ++i) x[i] = x[i] < 0.0f ? 0.0f : x[i];
}

/// out = (x - mean) / sqrt(variance + epsilon) * gain + shift; `out` may be `x`.
YE_INLINE void layer_norm(const float* x, const float* gain, const float* shift, int64_t n, float epsilon,
                          float* out) {
    // Two sums at once, since each addition waits for the one before.
    Floats sum = {}, other = {};
    int64_t i = 0;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
        sum += load(x + i);
        other += load(x + i + kLanes);
    }
    for (; i + kLanes <= n; i += kLanes) sum += load(x + i);
    float total = sum_of(sum + other);
    for (; i < n; ++i) total += x[i];
    const float mean = total / static_cast<float>(n);
    sum = other = Floats{};
    for (i = 0; i + 2 * kLanes <= n; i += 2 * kLanes) {
        const auto low = load(x + i) - mean, high = load(x + i + kLanes) - mean;
        sum += low * low;
        other += high * high;
    }
    for (; i + kLanes <= n; i += kLanes) {
        const auto centred = load(x + i) - mean;
        sum += centred * centred;
    }
    total = sum_of(sum + other);
    for (; i < n; ++i) total += (x[i] - mean) * (x[i] - mean);
    const float inverse = 1.0f / std::sqrt(total / static_cast<float>(n) + epsilon);
    for (i = 0; i + kLanes <= n; i += kLanes) {
        const auto normal = (load(x + i) - mean) * inverse;
        store(out + i, normal * load(gain + i) + load(shift + i));
    }
    for (; i < n; ++i) out[i] = (x[i] - mean) * inverse * gain[i] + shift[i];
}

YE_INLINE float largest(const float* x, int64_t n) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const Floats zero = {};
    Floats most = zero - kInfinity;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const auto lanes = load(x + i);
        most = lanes > most ? lanes : most;
    }
    float result = max_of(most);
    for (; i < n; ++i) result = x[i] > result ? x[i] : result;
    return result;
}

/// x = e^x / sum of e^x, n at least 1; NaN throughout if one is NaN or +infinity, or all are -infinity.
YE_INLINE void softmax(float* x, int64_t n) {
    const float most = largest(x, n);
    Floats sum = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const auto power = exp_of(load(x + i) - most);
        store(x + i, power);
        sum += power;
    }
    float total = sum_of(sum);
    if (i < n) {
        store_part(x + i, n - i, exp_of(load_part(x + i, n - i, most) - most));
        for (; i < n; ++i) total += x[i];
    }
    scale(x, 1.0f / total, n);
}

/// y += x / (1 + e^-gates). Powers of a number that is not above 0, so that none overflows.
YE_INLINE void add_gated(float* y, const float* gates, const float* x, int64_t n) {
    const Floats zero = {};
    for (int64_t i = 0; i < n; i += kLanes) {
        const int64_t count = n - i;
        const bool is_whole = count >= kLanes;
        const Floats gate = is_whole ? load(gates + i) : load_part(gates + i, count, 0.0f);
        const Floats from = is_whole ? load(x + i) : load_part(x + i, count, 0.0f);
        const Floats power = exp_of(gate < zero ? gate : -gate);
        const Floats share = (gate < zero ? power : zero + 1.0f) / (power + 1.0f) * from;
        if (is_whole) {
            store(y + i, load(y + i) + share);
        } else {
            store_part(y + i, count, load_part(y + i, count, 0.0f) + share);
        }
    }
}

/// log of the sum of e^x, or NaN if one of them is or all are -infinity. `most`: the largest that is a
/// number.
YE_INLINE float log_sum_exp(const float* x, int64_t n, float most) {
    if (!(std::abs(most) <= std::numeric_limits<float>::max()))
        return std::numeric_limits<float>::quiet_NaN();
    Floats sum = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) sum += exp_of(load(x + i) - most);
    double total = sum_of(sum);
    for (; i < n; ++i) total += std::exp(static_cast<double>(x[i]) - most);
    return static_cast<float>(most + std::log(total));
}

/// The largest |x|, or NaN if one is not finite.
YE_INLINE float peak_of(const float* x, int64_t n) {
    const Floats zero = {};
    Floats most = zero, spoilt = zero;  // 0 times what is not finite is NaN
    for (int64_t i = 0; i < n; i += kLanes) {
        const Floats lanes = i + kLanes <= n ? load(x + i) : load_part(x + i, n - i, 0.0f);
        const Floats size = lanes < zero ? -lanes : lanes;
        most = size > most ? size : most;
        spoilt += lanes * 0.0f;
    }
    return max_of(most) + sum_of(spoilt);
}

/// Whole numbers, as floats, of at most 2^22 in size plus `offset`, as bytes.
YE_INLINE void store_bytes(const Floats& whole, int32_t offset, int64_t count, uint8_t* to) {
    const auto integers = __builtin_convertvector(whole, Integers) + offset;
    const auto bytes = __builtin_convertvector(integers, Vector<kLanes>::Bytes);
    if (count >= kLanes) {
        std::memcpy(to, &bytes, kLanes);  // a size the compiler knows: a move, not a call
    } else {
        std::memcpy(to, &bytes, static_cast<size_t>(count));
    }
}

/// Quantisation of one row: q = round(x * (127 + shift) / max|x|) - shift, to the nearest even;
/// returns the factor that takes q + shift back to x, NaN if an x is not finite. shift is 0, or 127
/// where no x is below 0, which halves the steps. Bytes up to the next multiple of 4 are set as for zeros.
YE_INLINE float quantise(const float* x, int64_t n, int32_t shift, uint8_t* q) {
    const Floats zero = {};
    const float peak = peak_of(x, n);
    const bool is_usable = peak > 1e-30f;
    const auto steps = static_cast<float>(127 + shift);
    const float factor = is_usable ? steps / peak : 0.0f;
    const int64_t padded = (n + 3) / 4 * 4;
    for (int64_t i = 0; i < padded; i += kLanes) {
        const Floats lanes = i + kLanes <= n ? load(x + i) : load_part(x + i, n - i, 0.0f);
        const Floats shifted = (is_usable ? lanes * factor : zero) + kRound;
        store_bytes(shifted - kRound, -shift, padded - i, q + i);
    }
    return is_usable ? peak / steps : peak * 0.0f;
}

/// The same for what is to be multiplied like a weight: signed, with the sum of the whole numbers.
YE_INLINE float quantise_signed(const float* x, int64_t n, int8_t* q, int32_t* sum) {
    const float peak = peak_of(x, n);
    const bool is_usable = peak > 1e-30f;
    const float factor = is_usable ? 127.0f / peak : 0.0f;
    const int64_t padded = (n + 3) / 4 * 4;
    const Floats zero = {};
    Floats total = zero;  // whole numbers of at most 127 in size: exact up to 130,000 of them in a lane
    for (int64_t i = 0; i < padded; i += kLanes) {
        const Floats lanes = i + kLanes <= n ? load(x + i) : load_part(x + i, n - i, 0.0f);
        const Floats shifted = (is_usable ? lanes * factor : zero) + kRound;
        total += shifted - kRound;
        store_bytes(shifted - kRound, 0, padded - i, reinterpret_cast<uint8_t*>(q) + i);
    }
    *sum = static_cast<int32_t>(sum_of(total));
    return is_usable ? peak / 127.0f : peak * 0.0f;
}

/// Columns of a matrix as a packed int8 one (see decoder_kernels.hpp) whose inputs are the rows: 16 columns
/// from `x` on, each with a scale of its own.
YE_INLINE void pack_columns(const float* x, int64_t rows, int64_t stride, int8_t* packed, float* scales,
                            int32_t* sums) {
    constexpr int kColumns = 16;
    const Floats zero = {};
    for (int column = 0; column < kColumns; column += kLanes) {
        Floats most = zero, spoilt = zero;  // 0 times what is not finite is NaN
        for (int64_t row = 0; row < rows; ++row) {
            const Floats lanes = load(x + row * stride + column);
            const Floats size = lanes < zero ? -lanes : lanes;
            most = size > most ? size : most;
            spoilt += lanes * 0.0f;
        }
        const Floats least = zero + 1e-30f;
        const Floats factor = most > least ? 127.0f / most : zero;
        store(scales + column, (most > least ? most * (1.0f / 127.0f) : zero) + spoilt);
        Integers total = {};
        for (int64_t row = 0; row < rows; row += 4) {
            Integers four = {};
            const int64_t count = rows - row < 4 ? rows - row : 4;
            for (int64_t i = 0; i < count; ++i) {
                const Floats lanes = load(x + (row + i) * stride + column);
                const Floats shifted = (spoilt == zero ? lanes * factor : zero) + kRound;
                Integers whole;
                std::memcpy(&whole, &shifted, sizeof whole);
                whole -= 0x4B400000;  // the bits of kRound
                total += whole;
                four |= (whole & 0xFF) << (8 * static_cast<int32_t>(i));
            }
            std::memcpy(packed + row * kColumns + column * 4, &four, sizeof four);
        }
        std::memcpy(sums + column, &total, sizeof total);
    }
}

/// A row in two digits of base 255, each -127..127: q = 255 * high + low = round(x * 32512 / max|x|).
YE_INLINE float quantise_fine(const float* x, int64_t n, uint8_t* high, uint8_t* low) {
    const Floats zero = {};
    const float peak = peak_of(x, n);
    const bool is_usable = peak > 1e-30f;
    const float factor = is_usable ? 32512.0f / peak : 0.0f;
    const int64_t padded = (n + 3) / 4 * 4;
    for (int64_t i = 0; i < padded; i += kLanes) {
        const Floats lanes = i + kLanes <= n ? load(x + i) : load_part(x + i, n - i, 0.0f);
        Floats shifted = (is_usable ? lanes * factor : zero) + kRound;
        const Floats whole = shifted - kRound;
        shifted = whole * (1.0f / 255.0f) + kRound;
        const Floats digit = shifted - kRound;
        store_bytes(digit, 0, padded - i, high + i);
        store_bytes(whole - digit * 255.0f, 0, padded - i, low + i);
    }
    return is_usable ? peak / 32512.0f : peak * 0.0f;
}

/// e^x / sum of e^x in the form of `quantise_fine`, in two passes instead of five: the highest power is 1.
YE_INLINE float softmax_fine(const float* x, int64_t n, int32_t offset, uint8_t* high, uint8_t* low) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const float most = largest(x, n);
    const int64_t padded = (n + 3) / 4 * 4;
    Floats sum = {};
    for (int64_t i = 0; i < padded; i += kLanes) {
        const Floats lanes = i + kLanes <= n ? load(x + i) : load_part(x + i, n - i, -kInfinity);
        const Floats power = exp_of(lanes - most);
        sum += power;
        Floats shifted = power * 32512.0f + kRound;
        const Floats whole = shifted - kRound;
        shifted = whole * (1.0f / 255.0f) + kRound;
        const Floats digit = shifted - kRound;
        store_bytes(digit, offset, padded - i, high + i);
        store_bytes(whole - digit * 255.0f, offset, padded - i, low + i);
    }
    return 1.0f / (32512.0f * sum_of(sum));
}

/// The largest of each kScanPart values, of the last part as many as there are; NaN does not count.
YE_INLINE void peaks(const float* x, int64_t n, float* out) {
    for (int64_t part = 0; part * kScanPart < n; ++part) {
        const int64_t left = n - part * kScanPart;
        out[part] = largest(x + part * kScanPart, left < kScanPart ? left : kScanPart);
    }
}

/// A table with these and the products given.
constexpr DecoderKernels table(const char* name, decltype(DecoderKernels::matmul_f32) matmul_f32,
                               decltype(DecoderKernels::matmul_i8) matmul_i8) {
    return {name,         matmul_f32,  matmul_i8, quantise,     quantise_fine, quantise_signed,
            pack_columns, dot,         head_dots, head_sums,    add_scaled,    scale,
            relu,         layer_norm,  softmax,   softmax_fine, add_gated,     log_sum_exp,
            peaks,        passing_bits};
}
