#include "json.hpp"

#include <charconv>
#include <cmath>
#include <stdexcept>

namespace yolor_edge::c_api {
namespace {

constexpr int kDeepest = 64;
constexpr int64_t kMostValues = 1 << 24;
constexpr double kLargestWhole = 9007199254740992.0;  // 2^53

class Parser {
  public:
    explicit Parser(std::string_view text) : text_(text) {}

    Json whole() {
        Json value = any(0);
        skip_space();
        if (at_ < text_.size()) refuse("the end");
        return value;
    }

  private:
    [[noreturn]] void refuse(const char* expected) const {
        throw std::invalid_argument(std::string("no JSON, expected ") + expected + " at byte " +
                                    std::to_string(at_));
    }

    void skip_space() {
        while (at_ < text_.size() &&
               (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
            ++at_;
    }

    bool take(char letter) {
        skip_space();
        if (at_ >= text_.size() || text_[at_] != letter) return false;
        ++at_;
        return true;
    }

    bool take_word(std::string_view word) {
        if (text_.substr(at_, word.size()) != word) return false;
        at_ += word.size();
        return true;
    }

    Json any(int depth) {
        skip_space();
        if (depth > kDeepest || ++values_ > kMostValues) refuse("fewer values");
        Json value;
        const char first = at_ < text_.size() ? text_[at_] : '\0';
        if (first == '{') {
            ++at_;
            value.kind = Json::Kind::object;
            if (take('}')) return value;
            do {
                skip_space();
                std::string name = quoted();
                if (!take(':')) refuse("':'");
                value.members.emplace_back(std::move(name), any(depth + 1));
            } while (take(','));
            if (!take('}')) refuse("',' or '}'");
        } else if (first == '[') {
            ++at_;
            value.kind = Json::Kind::list;
            if (take(']')) return value;
            do {
                value.items.push_back(any(depth + 1));
            } while (take(','));
            if (!take(']')) refuse("',' or ']'");
        } else if (first == '"') {
            value.kind = Json::Kind::text;
            value.text = quoted();
        } else if (take_word("true") || take_word("false")) {
            value.kind = Json::Kind::boolean;
            value.is_true = first == 't';
        } else if (!take_word("null")) {
            read_number(&value);
        }
        return value;
    }

    void read_number(Json* value) {
        const size_t start = at_;
        const bool is_number =
            at_ < text_.size() && (text_[at_] == '-' || (text_[at_] >= '0' && text_[at_] <= '9'));
        if (!is_number) refuse("a value");
        const char* end = text_.data() + at_ + number_length();
        const auto [stop, error] = std::from_chars(text_.data() + at_, end, value->number);
        if (error != std::errc() || stop != end || !std::isfinite(value->number)) refuse("a number");
        at_ = static_cast<size_t>(end - text_.data());
        value->kind = Json::Kind::number;
        value->is_whole = text_.substr(start, at_ - start).find_first_of(".eE") == std::string_view::npos &&
                          std::abs(value->number) <= kLargestWhole;
    }

    /// How long the number here is, as JSON writes it: no zero before other digits, and some after a point or
    /// e.
    size_t number_length() const {
        size_t at = at_;
        const auto is_here = [&](std::string_view letters) {
            return at < text_.size() && letters.find(text_[at]) != std::string_view::npos;
        };
        const auto take_digits = [&] {
            const size_t first = at;
            while (is_here("0123456789")) ++at;
            if (at == first) refuse("a number");
        };
        if (is_here("-")) ++at;
        const bool is_zero = is_here("0");
        const size_t first = at;
        take_digits();
        if (is_zero && at > first + 1) refuse("a number");
        if (is_here(".")) {
            ++at;
            take_digits();
        }
        if (is_here("eE")) {
            ++at;
            if (is_here("+-")) ++at;
            take_digits();
        }
        return at - at_;
    }

    std::string quoted() {
        if (at_ >= text_.size() || text_[at_] != '"') refuse("a text");
        ++at_;
        std::string made;
        while (true) {
            if (at_ >= text_.size() || static_cast<unsigned char>(text_[at_]) < 0x20)
                refuse("the end of a text");
            const char letter = text_[at_++];
            if (letter == '"') return made;
            if (letter != '\\') {
                made += letter;
                continue;
            }
            const char kind = at_ < text_.size() ? text_[at_++] : '\0';
            switch (kind) {
                case '"':
                case '\\':
                case '/':
                    made += kind;
                    break;
                case 'b':
                    made += '\b';
                    break;
                case 'f':
                    made += '\f';
                    break;
                case 'n':
                    made += '\n';
                    break;
                case 'r':
                    made += '\r';
                    break;
                case 't':
                    made += '\t';
                    break;
                case 'u':
                    append_utf8(code_point(), &made);
                    break;
                default:
                    refuse("an escape");
            }
        }
    }

    uint32_t code_point() {
        const uint32_t first = four_digits();
        if (first < 0xD800 || first > 0xDFFF) return first;
        if (first > 0xDBFF || !take_word("\\u")) refuse("the other half of a character");
        const uint32_t second = four_digits();
        if (second < 0xDC00 || second > 0xDFFF) refuse("the other half of a character");
        return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    }

    uint32_t four_digits() {
        uint32_t code = 0;
        const char* from = text_.data() + at_;
        if (at_ + 4 > text_.size()) refuse("four digits");
        const auto [stop, error] = std::from_chars(from, from + 4, code, 16);
        if (error != std::errc() || stop != from + 4) refuse("four digits");
        at_ += 4;
        return code;
    }

    static void append_utf8(uint32_t code, std::string* text) {
        const auto tail = [&](int shift) { *text += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
        if (code < 0x80) {
            *text += static_cast<char>(code);
        } else if (code < 0x800) {
            *text += static_cast<char>(0xC0 | (code >> 6));
            tail(0);
        } else if (code < 0x10000) {
            *text += static_cast<char>(0xE0 | (code >> 12));
            tail(6);
            tail(0);
        } else {
            *text += static_cast<char>(0xF0 | (code >> 18));
            tail(12);
            tail(6);
            tail(0);
        }
    }

    std::string_view text_;
    size_t at_ = 0;
    int64_t values_ = 0;
};

}  // namespace

const Json* Json::find(std::string_view name) const noexcept {
    for (auto member = members.rbegin(); member != members.rend(); ++member) {
        if (member->first == name) return &member->second;
    }
    return nullptr;
}

Json parse_json(std::string_view text) {
    return Parser(text).whole();
}

}  // namespace yolor_edge::c_api
