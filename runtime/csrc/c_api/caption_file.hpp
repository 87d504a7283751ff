/// The file of caption weights, mapped into memory; runtime/bundle/caption_weights.py describes its layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "captions/caption_decoder.hpp"

namespace yolor_edge::c_api {

/// A file in memory, read only, shared by all processes that map it.
class MappedFile {
  public:
    /// Throws Failure BAD_FILE where it cannot be.
    explicit MappedFile(const std::string& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    const std::string& path() const noexcept { return path_; }
    const uint8_t* data() const noexcept { return data_; }
    size_t size() const noexcept { return size_; }

  private:
    std::string path_;
    const uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

struct CaptionFile {
    DecoderDims dims;
    bool is_int8;
    DecoderWeights weights;  // lie in the file
};

/// Reads the header and finds every tensor; throws Failure BAD_FILE with what is wrong.
CaptionFile read_caption_file(const MappedFile& file);

}  // namespace yolor_edge::c_api
