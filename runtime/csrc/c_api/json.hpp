/// Reading JSON, as far as the files of a bundle need it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace yolor_edge::c_api {

/// One value. Members keep their order; of two with one name, the last counts.
struct Json {
    enum class Kind { null, boolean, number, text, list, object };

    Kind kind = Kind::null;
    bool is_true = false;
    double number = 0.0;
    bool is_whole = false;  // a number written without fraction and exponent, up to 2^53
    std::string text;
    std::vector<Json> items;
    std::vector<std::pair<std::string, Json>> members;

    /// The member `name`, or null where there is none or this is no object.
    const Json* find(std::string_view name) const noexcept;
};

/// Throws std::invalid_argument saying what is wrong at which byte: anything but one JSON value (RFC 8259),
/// more than 64 values inside each other, more than 2^24 values.
Json parse_json(std::string_view text);

}  // namespace yolor_edge::c_api
