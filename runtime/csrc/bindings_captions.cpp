#include "bindings_captions.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "captions/caption_decoder.hpp"
#include "captions/caption_search.hpp"
#include "captions/decoder_kernels.hpp"

namespace py = pybind11;

namespace yolor_edge {
namespace {

using Hypotheses = std::vector<std::tuple<std::vector<int64_t>, double, double>>;

std::string text_of(const py::handle& value) {
    return py::str(value).cast<std::string>();
}

/// Any array of exactly this dtype and shape as a contiguous, aligned one: itself, or a copy where it is
/// neither.
template <class Value>
py::array_t<Value, py::array::c_style> values_of(const char* name, const py::array& array,
                                                 const std::vector<py::ssize_t>& shape,
                                                 const char* expected) {
    if (!py::isinstance<py::array_t<Value>>(array)) {
        throw std::invalid_argument(std::string(name) + " must have dtype " +
                                    text_of(py::dtype::of<Value>()) + ", got " + text_of(array.dtype()));
    }
    bool fits = array.ndim() == static_cast<py::ssize_t>(shape.size());
    for (size_t i = 0; fits && i < shape.size(); ++i)
        fits = shape[i] < 0 || array.shape(static_cast<py::ssize_t>(i)) == shape[i];
    if (!fits) {
        throw std::invalid_argument(std::string(name) + " must have shape " + expected + ", got " +
                                    text_of(array.attr("shape")));
    }
    const bool is_aligned = (array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
    using Values = py::array_t<Value, py::array::c_style>;
    return is_aligned ? Values(array) : Values(py::array(array.attr("copy")()));
}

py::array_t<int64_t> array_of(const std::vector<int64_t>& values) {
    py::array_t<int64_t> array(static_cast<py::ssize_t>(values.size()));
    if (!values.empty()) std::memcpy(array.mutable_data(), values.data(), values.size() * sizeof(int64_t));
    return array;
}

Hypotheses tuples_of(std::vector<CaptionHypothesis> hypotheses) {
    Hypotheses result;
    for (CaptionHypothesis& hypothesis : hypotheses)
        result.emplace_back(std::move(hypothesis.tokens), hypothesis.log_prob, hypothesis.score);
    return result;
}

/// The search and a lock: calls from two threads take turns instead of corrupting it.
class LockedCaptionSearch {
  public:
    explicit LockedCaptionSearch(CaptionOptions options) : search_(std::move(options)) {}

    py::tuple advance(const py::array& log_probs) {
        const auto values = values_of<float>("log_probs", log_probs, {-1, -1}, "(rows, V)");
        std::vector<int64_t> tokens, parents;
        {
            py::gil_scoped_release unlocked;
            const std::lock_guard lock(mutex_);
            check_shape(values.shape(0), values.shape(1));
            const NextRows& next = search_.advance(values.data(), values.shape(1));
            tokens = next.tokens;
            parents = next.parents;
        }
        return py::make_tuple(array_of(tokens), array_of(parents));
    }

    void stop() {
        const py::gil_scoped_release unlocked;
        const std::lock_guard lock(mutex_);
        search_.stop();
    }

    bool finished() const {
        const py::gil_scoped_release unlocked;
        const std::lock_guard lock(mutex_);
        return search_.finished();
    }

    Hypotheses hypotheses() const {
        const py::gil_scoped_release unlocked;
        const std::lock_guard lock(mutex_);
        return tuples_of(search_.hypotheses());
    }

  private:
    void check_shape(int64_t rows, int64_t vocabulary_size) const {
        if (search_.finished()) return;  // advance says what is wrong then
        const int64_t known = search_.vocabulary_size();
        const bool fits =
            known == 0 ? vocabulary_size >= search_.smallest_vocabulary() : vocabulary_size == known;
        if (rows == search_.rows() && fits) return;
        const std::string size = known == 0
                                     ? "V) with V at least " + std::to_string(search_.smallest_vocabulary())
                                     : std::to_string(known) + ")";
        throw std::invalid_argument("log_probs must have shape (" + std::to_string(search_.rows()) + ", " +
                                    size + ", got (" + std::to_string(rows) + ", " +
                                    std::to_string(vocabulary_size) + ")");
    }

    CaptionSearch search_;
    mutable std::mutex mutex_;
};

std::unique_ptr<LockedCaptionSearch> make_search(int64_t beam_size, int64_t max_length, int64_t bos_id,
                                                 int64_t eos_id, int64_t pad_id, double length_penalty,
                                                 int64_t min_length, std::vector<int64_t> forbidden,
                                                 double repetition_penalty, int64_t no_repeat_ngram,
                                                 double temperature, int64_t top_k, uint64_t seed,
                                                 bool keeps_finished) {
    return std::make_unique<LockedCaptionSearch>(CaptionOptions{
        beam_size, max_length, bos_id, eos_id, pad_id, length_penalty, min_length, std::move(forbidden),
        repetition_penalty, no_repeat_ngram, temperature, top_k, seed, keeps_finished});
}

/// The decoder with the Python arrays that hold its weights.
class BoundDecoder {
  public:
    BoundDecoder(DecoderDims dims, bool is_int8, const py::dict& tensors,
                 const std::optional<std::string>& kernels) {
        const auto source = [&](const std::string& name, const char* dtype, int64_t bytes) {
            if (!tensors.contains(name.c_str()))
                throw std::invalid_argument("tensor " + name + " is missing");
            const auto array = tensors[name.c_str()].cast<py::array>();
            const bool is_contiguous = (array.flags() & py::array::c_style) != 0;
            const bool is_aligned = reinterpret_cast<uintptr_t>(array.data()) % 4 == 0;
            if (text_of(array.dtype()) != dtype || array.nbytes() != bytes || !is_contiguous || !is_aligned) {
                throw std::invalid_argument("tensor " + name + " must be " + std::to_string(bytes) +
                                            " contiguous and aligned bytes of " + dtype + ", got " +
                                            std::to_string(array.nbytes()) + " of " + text_of(array.dtype()));
            }
            tensors_.push_back(array);
            return array.data();
        };
        DecoderWeights weights = collect_weights(dims, is_int8, source);
        decoder_ = std::make_unique<CaptionDecoder>(dims, std::move(weights), kernels_named(kernels));
    }

    std::string kernels() const { return decoder_->kernels(); }

    std::tuple<Hypotheses, int64_t, int64_t, int64_t, bool> write(
        const py::array& memory, int64_t beam_size, int64_t max_length, int64_t bos_id, int64_t eos_id,
        int64_t pad_id, double length_penalty, int64_t min_length, std::vector<int64_t> forbidden,
        double repetition_penalty, int64_t no_repeat_ngram, double temperature, int64_t top_k, uint64_t seed,
        bool keeps_finished, std::optional<double> budget_ms) const {
        const auto values = memory_values(memory);
        if (budget_ms && !(*budget_ms >= 0.0)) {
            throw std::invalid_argument("budget_ms must be at least 0, got " + std::to_string(*budget_ms));
        }
        constexpr double kLongestMs = 1e12;
        const int64_t budget_ns =
            budget_ms ? static_cast<int64_t>(std::min(*budget_ms, kLongestMs) * 1e6) : -1;
        const CaptionOptions options{beam_size,
                                     max_length,
                                     bos_id,
                                     eos_id,
                                     pad_id,
                                     length_penalty,
                                     min_length,
                                     std::move(forbidden),
                                     repetition_penalty,
                                     no_repeat_ngram,
                                     temperature,
                                     top_k,
                                     seed,
                                     keeps_finished};
        Writing writing{};
        {
            const float* data = values.data();
            py::gil_scoped_release unlocked;
            writing = decoder_->write(data, options, budget_ns);
        }
        return {tuples_of(std::move(writing.hypotheses)), writing.first_token_ns, writing.later_ns,
                writing.runs, writing.is_cut};
    }

    py::array_t<float> log_probs(const py::array& memory, const py::array& tokens) const {
        const auto values = memory_values(memory);
        if (tokens.ndim() == 1)
            decoder_->require_positions("tokens", tokens.shape(0));  // before room is made
        const auto ids = values_of<int64_t>("tokens", tokens, {-1}, "(T,)");
        py::array_t<float> out({ids.shape(0), static_cast<py::ssize_t>(decoder_->dims().vocabulary)});
        {
            const float* data = values.data();
            float* to = out.mutable_data();
            py::gil_scoped_release unlocked;
            decoder_->log_probs(data, ids.data(), ids.shape(0), to);
        }
        return out;
    }

  private:
    py::array_t<float, py::array::c_style> memory_values(const py::array& memory) const {
        const DecoderDims& dims = decoder_->dims();
        const std::string shape = "(" + std::to_string(dims.memory) + ", " + std::to_string(dims.width) + ")";
        return values_of<float>("memory", memory, {dims.memory, dims.width}, shape.c_str());
    }

    static const DecoderKernels& kernels_named(const std::optional<std::string>& name) {
        if (!name) return best_decoder_kernels();
        const DecoderKernels* kernels = decoder_kernels(name->c_str());
        if (kernels != nullptr) return *kernels;
        throw std::invalid_argument("kernels must be one that this processor runs, got " + *name);
    }

    std::vector<py::array> tensors_;  // keeps alive what the decoder points into
    std::unique_ptr<CaptionDecoder> decoder_;
};

std::unique_ptr<BoundDecoder> make_decoder(int64_t vocabulary, int64_t width, int64_t layers, int64_t heads,
                                           int64_t feed_forward, int64_t hidden, int64_t positions,
                                           int64_t memory, double norm_epsilon, const std::string& precision,
                                           const py::dict& tensors, const std::optional<std::string>& kernels,
                                           int64_t regions, int64_t padding) {
    if (precision != "fp32" && precision != "int8")
        throw std::invalid_argument("precision must be fp32 or int8, got " + precision);
    const DecoderDims dims{vocabulary, width,  layers,  heads,   feed_forward, hidden,
                           positions,  memory, regions, padding, norm_epsilon};
    return std::make_unique<BoundDecoder>(dims, precision == "int8", tensors, kernels);
}

std::vector<std::string> available_kernels() {
    std::vector<std::string> names;
    for (const char* const* name = kDecoderKernelNames; *name != nullptr; ++name) {
        if (decoder_kernels(*name) != nullptr) names.emplace_back(*name);
    }
    return names;
}

}  // namespace

// What a search takes beside its first argument, the same for the search by itself and for the decoder.
#define YE_SEARCH_ARGUMENTS                                                                               \
    py::arg("beam_size"), py::arg("max_length"), py::arg("bos_id"), py::arg("eos_id"), py::arg("pad_id"), \
        py::arg("length_penalty") = 1.0, py::arg("min_length") = 0,                                       \
        py::arg("forbidden") = std::vector<int64_t>{}, py::arg("repetition_penalty") = 1.0,               \
        py::arg("no_repeat_ngram") = 0, py::arg("temperature") = 0.0, py::arg("top_k") = 0,               \
        py::arg("seed") = 0, py::arg("keeps_finished") = false

void bind_captions(py::module_& module) {
    py::class_<LockedCaptionSearch>(module, "CaptionSearch")
        .def(py::init(&make_search), YE_SEARCH_ARGUMENTS)
        .def("advance", &LockedCaptionSearch::advance, py::arg("log_probs"))
        .def("stop", &LockedCaptionSearch::stop)
        .def("hypotheses", &LockedCaptionSearch::hypotheses)
        .def_property_readonly("finished", &LockedCaptionSearch::finished);
    module.def("decoder_kernels", &available_kernels);
    py::class_<BoundDecoder>(module, "CaptionDecoder")
        .def(py::init(&make_decoder), py::arg("vocabulary"), py::arg("width"), py::arg("layers"),
             py::arg("heads"), py::arg("feed_forward"), py::arg("hidden"), py::arg("positions"),
             py::arg("memory"), py::arg("norm_epsilon"), py::arg("precision"), py::arg("tensors"),
             py::arg("kernels") = py::none(), py::arg("regions") = 0, py::arg("padding") = 0)
        .def("write", &BoundDecoder::write, py::arg("memory"), YE_SEARCH_ARGUMENTS,
             py::arg("budget_ms") = py::none())
        .def("log_probs", &BoundDecoder::log_probs, py::arg("memory"), py::arg("tokens"))
        .def_property_readonly("kernels", &BoundDecoder::kernels);
}

}  // namespace yolor_edge
