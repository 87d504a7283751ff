/// What products with packed weights work on, and how it is cut; see decoder_kernels.hpp.
#pragma once

#include <cstdint>

#include "captions/decoder_kernels.hpp"

namespace yolor_edge {

struct FloatProduct {
    const float* x;
    int64_t x_stride;
    const float* weights;
    const float* bias;
    int64_t in;
    float* y;
    int64_t y_stride;

    FloatProduct from_row(int64_t row) const {
        FloatProduct rest = *this;
        rest.x += row * x_stride;
        rest.y += row * y_stride;
        return rest;
    }

    FloatProduct from_block(int64_t block) const {
        FloatProduct rest = *this;
        rest.weights += block * in * kBlock;
        if (bias != nullptr) rest.bias += block * kBlock;
        rest.y += block * kBlock;
        return rest;
    }
};

struct Int8Product {
    QuantisedRows x;
    const int8_t* weights;
    const int32_t* sums;
    const float* weight_scales;
    const float* bias;
    int64_t groups;  // of four inputs
    float* y;
    int64_t y_stride;

    Int8Product from_row(int64_t row) const {
        Int8Product rest = *this;
        rest.x.high += row * x.stride;
        if (x.low != nullptr) rest.x.low += row * x.stride;
        rest.x.scales += row;
        rest.x.rows -= row;
        rest.y += row * y_stride;
        return rest;
    }

    Int8Product from_block(int64_t block) const {
        Int8Product rest = *this;
        rest.weights += block * groups * 4 * kBlock;
        rest.sums += block * kBlock;
        rest.weight_scales += block * kBlock;
        if (bias != nullptr) rest.bias += block * kBlock;
        rest.y += block * kBlock;
        return rest;
    }
};

}  // namespace yolor_edge
