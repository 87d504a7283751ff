/// Images in the simplest formats there are, PPM and PGM: every viewer and OpenCV read and write them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct Picture {
    int64_t height = 0;
    int64_t width = 0;
    std::vector<uint8_t> rgb;  // (height, width, 3)
};

/// A binary PPM (P6, 8 bits). Throws std::runtime_error where it is none.
Picture read_ppm(const std::string& path);

/// A binary PGM (P5): one byte a pixel.
void write_pgm(const std::string& path, const std::vector<uint8_t>& grey, int64_t height, int64_t width);

/// A file of float32 and nothing else, as numpy's `tofile` writes it.
std::vector<float> read_floats(const std::string& path);
void write_floats(const std::string& path, const std::vector<float>& values);
