#include "pictures.hpp"

#include <cctype>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace {

void write_file(const std::string& path, const std::string& head, const void* data, size_t size) {
    std::ofstream file(path, std::ios::binary);
    file << head;
    file.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
    if (!file.flush()) throw std::runtime_error(path + ": cannot be written; does its folder exist?");
}

/// A number of a PPM header; # begins a comment.
int64_t next_number(std::istream& file) {
    while (std::isspace(file.peek()) || file.peek() == '#') {
        if (file.get() == '#') {
            while (file.good() && file.get() != '\n') {
            }
        }
    }
    int64_t number = -1;
    file >> number;
    return number;
}

}  // namespace

Picture read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + ": cannot be read");
    char magic[2] = {};
    file.read(magic, 2);
    Picture picture;
    picture.width = next_number(file);
    picture.height = next_number(file);
    const int64_t highest = next_number(file);
    file.get();  // the one space before the pixels
    constexpr int64_t kLargest = 1 << 16;
    const bool is_ppm = magic[0] == 'P' && magic[1] == '6' && highest == 255 && picture.height > 0 &&
                        picture.width > 0 && picture.height <= kLargest && picture.width <= kLargest;
    if (!is_ppm)
        throw std::runtime_error(path + ": is no binary PPM of 8 bits; make one with `ffmpeg -i IN OUT.ppm`");
    picture.rgb.resize(static_cast<size_t>(picture.height * picture.width * 3));
    file.read(reinterpret_cast<char*>(picture.rgb.data()), static_cast<std::streamsize>(picture.rgb.size()));
    if (!file) throw std::runtime_error(path + ": is cut short");
    return picture;
}

void write_pgm(const std::string& path, const std::vector<uint8_t>& grey, int64_t height, int64_t width) {
    const std::string head = "P5\n" + std::to_string(width) + " " + std::to_string(height) + "\n255\n";
    write_file(path, head, grey.data(), grey.size());
}

std::vector<float> read_floats(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) throw std::runtime_error(path + ": cannot be read; README.md says how heads are written");
    const auto size = static_cast<size_t>(file.tellg());
    std::vector<float> values(size / sizeof(float));
    file.seekg(0);
    file.read(reinterpret_cast<char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(float)));
    if (!file) throw std::runtime_error(path + ": is cut short");
    return values;
}

void write_floats(const std::string& path, const std::vector<float>& values) {
    write_file(path, "", values.data(), values.size() * sizeof(float));
}
