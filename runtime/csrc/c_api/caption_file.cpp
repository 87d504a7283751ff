#include "caption_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "arguments.hpp"
#include "json.hpp"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the numbers in the file are little-endian");

namespace yolor_edge::c_api {
namespace {

constexpr char kMagic[8] = {'Y', 'E', 'C', 'A', 'P', 'T', 'N', '\0'};
constexpr uint32_t kVersion = 4;  // see caption_weights.py
constexpr size_t kPrefix = 16;
constexpr int64_t kAlignment = 64;
constexpr uint32_t kLargestHeader = 1 << 24;
constexpr double kLargestDim = 1 << 24;
constexpr double kMostLayers = 1 << 12;
constexpr double kLargestOffset = 9007199254740992.0;  // 2^53

[[noreturn]] void refuse(const std::string& path, const std::string& complaint) {
    throw Failure(YOLOR_EDGE_BAD_FILE, path + ": " + complaint);
}

[[noreturn]] void refuse_unfit(const std::string& path, const std::string& complaint) {
    refuse(path, complaint + "; copy the bundle again or export it again");
}

/// Closes a descriptor when it goes.
struct Descriptor {
    explicit Descriptor(int number) : number(number) {}
    ~Descriptor() {
        if (number >= 0) close(number);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    const int number;
};

int64_t whole(const Json* value, double highest) {
    const bool fits = value != nullptr && value->is_whole && value->number >= 0.0 && value->number <= highest;
    return fits ? static_cast<int64_t>(value->number) : -1;
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
    const Descriptor descriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat found = {};
    if (descriptor.number < 0 || fstat(descriptor.number, &found) != 0)
        refuse(path, "cannot be read (" + std::string(std::strerror(errno)) + ")");
    if (!S_ISREG(found.st_mode))
        refuse(path, "is no file; name caption.fp32.bin or caption.int8.bin of a bundle");
    size_ = static_cast<size_t>(found.st_size);
    if (size_ < kPrefix)
        refuse_unfit(path, "is not a file of caption weights (it does not begin with YECAPTN)");
    void* data = mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor.number, 0);
    if (data == MAP_FAILED)
        refuse(path, "cannot be mapped into memory (" + std::string(std::strerror(errno)) + ")");
    data_ = static_cast<const uint8_t*>(data);
}

MappedFile::~MappedFile() {
    munmap(const_cast<uint8_t*>(data_), size_);
}

CaptionFile read_caption_file(const MappedFile& file) {
    const std::string& path = file.path();
    if (std::memcmp(file.data(), kMagic, sizeof kMagic) != 0)
        refuse_unfit(path, "is not a file of caption weights (it does not begin with YECAPTN)");
    uint32_t version = 0, length = 0;
    std::memcpy(&version, file.data() + 8, 4);
    std::memcpy(&length, file.data() + 12, 4);
    if (version != kVersion) {
        refuse(path, "layout " + std::to_string(version) + " of caption weights, this library reads " +
                         std::to_string(kVersion) + "; link a newer one or export again");
    }
    if (length > file.size() - kPrefix || length > kLargestHeader) {
        refuse_unfit(path, "the header of " + std::to_string(length) + " bytes exceeds the file of " +
                               std::to_string(file.size()) + " bytes");
    }
    Json header;
    try {
        header = parse_json({reinterpret_cast<const char*>(file.data()) + kPrefix, length});
    } catch (const std::invalid_argument& error) {
        refuse_unfit(path, std::string("its header is ") + error.what());
    }

    CaptionFile found{};
    const Json* precision = header.find("precision");
    found.is_int8 = precision != nullptr && precision->text == "int8";
    if (precision == nullptr || (!found.is_int8 && precision->text != "fp32"))
        refuse_unfit(path, "precision must be one of fp32, int8");
    const Json* epsilon = header.find("norm_epsilon");
    found.dims.norm_epsilon = epsilon != nullptr ? epsilon->number : 0.0;
    if (!(found.dims.norm_epsilon > 0.0 && found.dims.norm_epsilon < 1.0))
        refuse_unfit(path, "norm_epsilon must lie between 0 and 1");
    const Json* dims = header.find("dims");
    for (const auto& [name, value] : {std::pair{"vocabulary", &found.dims.vocabulary},
                                      {"width", &found.dims.width},
                                      {"layers", &found.dims.layers},
                                      {"heads", &found.dims.heads},
                                      {"feed_forward", &found.dims.feed_forward},
                                      {"hidden", &found.dims.hidden},
                                      {"positions", &found.dims.positions},
                                      {"memory", &found.dims.memory},
                                      {"regions", &found.dims.regions},
                                      {"padding", &found.dims.padding}}) {
        const double highest = std::strcmp(name, "layers") == 0 ? kMostLayers : kLargestDim;
        const std::string_view which = name;
        const bool may_lack = which == "hidden" || which == "regions" || which == "padding";
        *value = dims != nullptr ? whole(dims->find(name), highest) : -1;
        if (*value < (may_lack ? 0 : 1)) {
            refuse_unfit(path, std::string("dims.") + name + " must be a whole number from " +
                                   (may_lack ? "0 to " : "1 to ") +
                                   std::to_string(static_cast<int64_t>(highest)));
        }
    }

    const Json* tensors = header.find("tensors");
    const auto source = [&](const std::string& name, const char* dtype, int64_t bytes) -> const void* {
        const Json* entry = tensors != nullptr ? tensors->find(name) : nullptr;
        if (entry == nullptr) refuse_unfit(path, "tensor '" + name + "' is missing");
        const Json* type = entry->find("dtype");
        const Json* shape = entry->find("shape");
        int64_t size = std::strcmp(dtype, "int8") == 0 ? 1 : 4;
        for (const Json& axis : shape != nullptr ? shape->items : std::vector<Json>{}) {
            const int64_t count = whole(&axis, kLargestDim * 4);
            size = count < 0 || (count > 0 && size > bytes / count) ? -1 : size * count;
            if (size < 0) break;
        }
        if (type == nullptr || type->text != dtype || size != bytes) {
            refuse_unfit(path, "tensor '" + name + "' is not the " + std::to_string(bytes) + " bytes of " +
                                   dtype + " that its dims ask for");
        }
        const int64_t offset = whole(entry->find("offset"), kLargestOffset);
        if (offset < 0 || offset % kAlignment != 0)
            refuse_unfit(path,
                         "tensor '" + name + "' must start at a multiple of " + std::to_string(kAlignment));
        if (bytes > static_cast<int64_t>(file.size()) - offset) {
            refuse_unfit(path, "tensor '" + name + "' ends at byte " + std::to_string(offset + bytes) +
                                   " of " + std::to_string(file.size()));
        }
        return file.data() + offset;
    };
    try {
        found.weights = collect_weights(found.dims, found.is_int8, source);
    } catch (const std::invalid_argument& error) {
        refuse_unfit(path, error.what());
    }
    return found;
}

}  // namespace yolor_edge::c_api
