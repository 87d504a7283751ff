/// What every function of the C interface does at its edge: check arguments, turn exceptions into a status
/// and a line of text.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "simd/cpu_features.hpp"
#include "vision/heads.hpp"
#include "vision/sampling.hpp"
#include "yolor_edge.h"

namespace yolor_edge::c_api {

/// A failure with the status that the caller gets.
class Failure : public std::runtime_error {
  public:
    Failure(yolor_edge_status status, const std::string& what) : std::runtime_error(what), status(status) {}
    const yolor_edge_status status;
};

/// Note what went wrong for this thread; returns `status`.
yolor_edge_status fail(yolor_edge_status status, const char* what) noexcept;

/// Do some work; nothing is thrown past it.
template <class Work>
yolor_edge_status caught(const Work& work) noexcept {
    try {
        work();
        return YOLOR_EDGE_OK;
    } catch (const Failure& failure) {
        return fail(failure.status, failure.what());
    } catch (const std::invalid_argument& error) {
        return fail(YOLOR_EDGE_INVALID_ARGUMENT, error.what());
    } catch (const std::bad_alloc&) {
        return fail(YOLOR_EDGE_OUT_OF_MEMORY, "out of memory");
    } catch (const std::exception& error) {
        return fail(YOLOR_EDGE_INTERNAL, error.what());
    } catch (...) {
        return fail(YOLOR_EDGE_INTERNAL, "an unknown exception");
    }
}

/// Do the work of one function, unless YOLOR_EDGE_SIMD asks for instructions that are not to be had.
template <class Work>
yolor_edge_status guarded(const Work& work) noexcept {
    return caught([&] {
        require_simd_level();
        work();
    });
}

constexpr int64_t kLargestSide = 1 << 20;
constexpr int64_t kMostElements = int64_t{1} << 40;

inline void require_given(const char* name, const void* pointer) {
    if (pointer == nullptr) throw std::invalid_argument(std::string(name) + " must be given, got NULL");
}

inline void require_between(const char* name, int64_t lowest, int64_t highest, int64_t value) {
    if (value >= lowest && value <= highest) return;
    throw std::invalid_argument(std::string(name) + " must lie in " + std::to_string(lowest) + ".." +
                                std::to_string(highest) + ", got " + std::to_string(value));
}

inline void require_at_least(const char* name, int64_t lowest, int64_t value) {
    if (value >= lowest) return;
    throw std::invalid_argument(std::string(name) + " must be at least " + std::to_string(lowest) + ", got " +
                                std::to_string(value));
}

inline void require_side(const char* name, int64_t value) {
    require_between(name, 1, kLargestSide, value);
}

/// Fill a struct of the caller's, which may have been compiled with a longer version of it.
template <class Struct>
void give(const char* name, const Struct& values, Struct* target, size_t size) {
    require_given(name, target);
    if (size < sizeof(Struct)) {
        throw std::invalid_argument(std::string(name) + ": size must be sizeof its struct, at least " +
                                    std::to_string(sizeof(Struct)) + ", got " + std::to_string(size));
    }
    std::memset(static_cast<void*>(target), 0, size);
    std::memcpy(static_cast<void*>(target), &values, sizeof(Struct));
    target->size = size;
}

/// Whether a struct was filled by its `_init`, and asks for nothing that this library does not know.
template <class Struct>
void require_known(const char* name, const Struct* given) {
    require_given(name, given);
    const size_t size = given->size;
    constexpr size_t kLargest = 1 << 16;
    if (size < sizeof(Struct) || size > kLargest) {
        throw std::invalid_argument(std::string(name) +
                                    " must be filled by its _init function first, got size " +
                                    std::to_string(size));
    }
    const auto* bytes = reinterpret_cast<const unsigned char*>(given);
    if (std::any_of(bytes + sizeof(Struct), bytes + size, [](unsigned char byte) { return byte != 0; })) {
        throw std::invalid_argument(std::string(name) + " sets something that library " YOLOR_EDGE_VERSION
                                                        " does not know; link a newer one");
    }
}

/// Options as given, or the defaults.
template <class Options>
Options options_or(const char* name, const Options* given, const Options& defaults) {
    if (given == nullptr) return defaults;
    require_known(name, given);
    return *given;
}

/// A head as the kernels read it, checked.
HeadView view_of(const char* name, const yolor_edge_head* head);

/// A thread count as the kernels take it, checked.
int thread_count(const char* name, int64_t threads);

/// The axes of an image on a grid of `stride` input pixels.
struct Axes {
    AxisFrame vertical;
    AxisFrame horizontal;
};

/// Checks the frame; `grid` is (channels, h, w).
Axes axes_of(const yolor_edge_frame* frame, int64_t stride, const yolor_edge_head& grid);
void require_frame(const yolor_edge_frame* frame);

/// Copies a text with a 0 at its end; throws TOO_SMALL with `length` set.
void give_text(const std::string& text, char* target, size_t capacity, size_t* length);

}  // namespace yolor_edge::c_api
