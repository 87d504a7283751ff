/// The C interface of bundles; see yolor_edge.h.
#include <cerrno>
#include <cstdio>
#include <map>
#include <memory>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "arguments.hpp"
#include "json.hpp"

using namespace yolor_edge;
using namespace yolor_edge::c_api;

struct yolor_edge_bundle {
    std::string name;
    std::vector<int64_t> strides;
    std::vector<std::string> class_names, semantic_names, words;
    std::vector<int64_t> forbidden;  // tokens that the model's own search never writes
    bool is_bert = false;
    std::vector<uint8_t> is_written;  // by token, whether texts have it; see Tokenizer in tokenizer.py
    std::map<std::pair<std::string, std::string>, std::string> files;  // by what and precision
    yolor_edge_bundle_info info{};                                     // pointers into this bundle
};

namespace {

constexpr int64_t kSchema = 1;
constexpr size_t kLargestFile = 64 << 20;
constexpr double kMostPixels = 1 << 20;
constexpr double kMany = 1 << 24;
constexpr double kMostBoxes = 2147483647.0;
constexpr const char* kBoxHeads[] = {"box_bins", "box_distances", "boxes"};  // by coding
constexpr const char* kScoreHeads[] = {"class_logits", "class_scores"};
constexpr int64_t kMostTokens = 1 << 24;

std::string read_text(const std::string& path) {
    const auto refuse = [&](const std::string& what) {
        throw Failure(YOLOR_EDGE_BAD_FILE, path + ": " + what);
    };
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    if (file == nullptr) {
        refuse("cannot be read (" + std::string(std::strerror(errno)) +
               "); name a folder as `yolor-edge export` writes it");
    }
    std::string text;
    char part[1 << 14];
    size_t count = 0;
    while ((count = std::fread(part, 1, sizeof part, file.get())) > 0 && text.size() < kLargestFile)
        text.append(part, count);
    if (std::ferror(file.get()) != 0) refuse("cannot be read");
    if (text.size() >= kLargestFile) refuse("is too large for the description of a bundle");
    return text;
}

/// Takes typed values out of one object, complaining with its name.
class Reader {
  public:
    Reader(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

    const Json& get(const char* key, Json::Kind kind, const char* expected) const {
        const Json* value = object_.find(key);
        if (value == nullptr || value->kind != kind) refuse(key, expected);
        return *value;
    }
    bool has(const char* key) const {
        const Json* value = object_.find(key);
        return value != nullptr && value->kind != Json::Kind::null;
    }
    Reader section(const char* key) const {
        return {get(key, Json::Kind::object, "an object"), where_ + "." + key};
    }
    const std::string& text(const char* key) const { return get(key, Json::Kind::text, "a string").text; }
    bool flag(const char* key) const { return get(key, Json::Kind::boolean, "true or false").is_true; }
    double number(const char* key) const { return get(key, Json::Kind::number, "a number").number; }

    int64_t whole(const char* key, double lowest, double highest) const {
        return whole_of(get(key, Json::Kind::number, "a whole number"), key, lowest, highest);
    }
    std::vector<int64_t> wholes(const char* key, double lowest, double highest) const {
        std::vector<int64_t> found;
        for (const Json& item : get(key, Json::Kind::list, "a list of whole numbers").items)
            found.push_back(whole_of(item, key, lowest, highest));
        return found;
    }
    std::vector<std::string> texts(const char* key) const {
        std::vector<std::string> found;
        for (const Json& item : get(key, Json::Kind::list, "a list of strings").items) {
            if (item.kind != Json::Kind::text) refuse(key, "a list of strings");
            found.push_back(item.text);
        }
        return found;
    }

    /// The number of the one of `known` that a key names.
    int64_t one_of(const char* key, const std::vector<std::string>& known) const {
        const std::string& name = text(key);
        std::string names;
        for (size_t i = 0; i < known.size(); ++i) {
            if (known[i] == name) return static_cast<int64_t>(i);
            names += (i == 0 ? "" : ", ") + known[i];
        }
        refuse(key, "one of " + names);
    }

    [[noreturn]] void refuse(const std::string& key, const std::string& expected) const {
        throw std::invalid_argument(where_ + ": \"" + key + "\" must be " + expected);
    }

  private:
    int64_t whole_of(const Json& value, const char* key, double lowest, double highest) const {
        if (value.is_whole && value.number >= lowest && value.number <= highest)
            return static_cast<int64_t>(value.number);
        refuse(key, "a whole number from " + std::to_string(static_cast<int64_t>(lowest)) + " to " +
                        std::to_string(static_cast<int64_t>(highest)));
    }

    const Json& object_;
    std::string where_;
};

void read_model(const Reader& model, yolor_edge_bundle* bundle) {
    yolor_edge_bundle_info& info = bundle->info;
    bundle->name = model.text("name");
    for (const std::string& task : model.texts("tasks")) {
        const int64_t bit = task == "boxes"      ? YOLOR_EDGE_BOXES
                            : task == "masks"    ? YOLOR_EDGE_MASKS
                            : task == "semantic" ? YOLOR_EDGE_SEMANTIC
                            : task == "caption"  ? YOLOR_EDGE_CAPTION
                                                 : 0;
        if (bit == 0) model.refuse("tasks", "of boxes, masks, semantic and caption");
        info.tasks |= bit;
    }
    const Reader rule = model.section("preprocess");
    const std::vector<int64_t> size = rule.wholes("input_size", 1, kMostPixels);
    if (size.size() != 2) rule.refuse("input_size", "(height, width)");
    info.input_height = size[0];
    info.input_width = size[1];
    info.pad_value = rule.whole("pad_value", 0, 255);
    const std::string& order = rule.text("channel_order");
    if (order != "RGB" && order != "BGR") rule.refuse("channel_order", "\"RGB\" or \"BGR\"");
    info.swap_rb = order == "RGB" ? 1 : 0;
    info.scale = rule.number("scale");
    info.rounding = rule.has("rounding") ? rule.one_of("rounding", {"half_up", "half_even"}) : 0;
    bundle->strides = model.wholes("strides", 1, kMostPixels);
    info.box_coding = model.one_of("box_coding", {"dfl", "ltrb", "xyxy"});
    info.score_coding = model.one_of("score_coding", {"logits", "probabilities"});
    info.box_head = kBoxHeads[info.box_coding];
    info.score_head = kScoreHeads[info.score_coding];
    if (model.has("box_count") != (info.box_coding == YOLOR_EDGE_XYXY))
        model.refuse("box_count", "a number with the box_coding xyxy, and null with others");
    if (model.has("box_count")) info.box_count = model.whole("box_count", 1, kMostBoxes);
    info.semantic_stride = model.whole("semantic_stride", 1, kMostPixels);
    info.bins = model.whole("reg_max", 1, kMany);
    bundle->class_names = model.texts("class_names");
    bundle->semantic_names = model.texts("semantic_names");
    const Reader thresholds = model.section("thresholds");
    info.score_threshold = thresholds.number("score");
    info.iou_threshold = thresholds.number("iou");
    info.max_detections = thresholds.whole("max_detections", 0, kMany);
    if (model.has("graph")) {  // which bundles written before there were options do not have
        const Reader graph = model.section("graph");
        info.batch = graph.has("batch") ? graph.whole("batch", 1, kMany) : 0;
        info.top_k = graph.has("top_k") ? graph.whole("top_k", 1, kMany) : 0;
        info.is_map_in_graph = graph.flag("semantic_map") ? 1 : 0;
    }
    if (!model.has("caption")) return;
    const Reader caption = model.section("caption");
    bundle->words = caption.texts("vocabulary");
    const auto last = static_cast<double>(bundle->words.size()) - 1.0;
    info.max_length = caption.whole("max_length", 1, kMany);
    info.pad_id = caption.whole("pad_id", 0, last);
    info.unk_id = caption.whole("unk_id", 0, last);
    info.bos_id = caption.whole("bos_id", 0, last);
    info.eos_id = caption.whole("eos_id", 0, last);
    const std::string& text = caption.text("text");
    if (text != "words" && text != "bert") caption.refuse("text", "\"words\" or \"bert\"");
    bundle->is_bert = text == "bert";
    info.beam_size = caption.whole("beam_size", 1, last + 1.0);
    info.length_penalty = caption.number("length_penalty");
    const std::string& finished = caption.text("finished");
    if (finished != "leave" && finished != "stay") caption.refuse("finished", "\"leave\" or \"stay\"");
    info.keeps_finished = finished == "stay" ? 1 : 0;
    if (info.keeps_finished == 0) bundle->forbidden = {info.pad_id, info.unk_id, info.bos_id};
    bundle->is_written.assign(bundle->words.size(), 1);
    for (const int64_t id : {info.pad_id, info.bos_id, info.eos_id})
        bundle->is_written[static_cast<size_t>(id)] = 0;
    if (!bundle->is_bert) return;
    bundle->is_written[static_cast<size_t>(info.unk_id)] = 0;
    std::unordered_set<std::string_view> later{"[MASK]", ""};
    for (size_t i = bundle->words.size(); i-- > 0;) {
        if (!later.insert(bundle->words[i]).second) bundle->is_written[i] = 0;
    }
}

void read_files(const Json& whole, const std::string& folder, yolor_edge_bundle* bundle) {
    const auto note = [&](const std::string& what, const Json& by_precision) {
        for (const auto& [precision, name] : by_precision.members) {
            if (name.kind == Json::Kind::text && name.text.find('/') == std::string::npos)
                bundle->files[{what, precision}] = folder + "/" + name.text;
        }
    };
    if (const Json* graphs = whole.find("graphs")) {
        for (const auto& [what, by_precision] : graphs->members) note(what, by_precision);
    }
    if (const Json* weights = whole.find("caption_weights")) note("caption_weights", *weights);
}

std::unique_ptr<yolor_edge_bundle> read_bundle(const std::string& folder) {
    const std::string path = folder + "/bundle.json";
    try {
        const Json whole = parse_json(read_text(path));
        const Reader reader(whole, "bundle");
        const int64_t schema = reader.whole("schema_version", 0, kMany);
        if (schema > kSchema) {
            throw std::invalid_argument("schema " + std::to_string(schema) +
                                        " is newer than this library reads (" + std::to_string(kSchema) +
                                        "); link a newer one");
        }
        auto bundle = std::make_unique<yolor_edge_bundle>();
        read_model(reader.section("model"), bundle.get());
        read_files(whole, folder, bundle.get());
        yolor_edge_bundle_info& info = bundle->info;
        info.size = sizeof info;
        info.name = bundle->name.c_str();
        info.strides = bundle->strides.data();
        info.stride_count = static_cast<int64_t>(bundle->strides.size());
        info.class_count = static_cast<int64_t>(bundle->class_names.size());
        info.semantic_count = static_cast<int64_t>(bundle->semantic_names.size());
        info.word_count = static_cast<int64_t>(bundle->words.size());
        return bundle;
    } catch (const std::invalid_argument& error) {
        throw Failure(YOLOR_EDGE_BAD_FILE, path + ": " + error.what());
    }
}

/// As BERT's text is cleaned up (transformers' clean_up_tokenization), with a capital at its start.
std::string cleaned_up(std::string text) {
    const auto replace = [&](const std::string& mark, const std::string& with) {
        for (size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at + with.size()))
            text.replace(at, mark.size(), with);
    };
    replace(" ##", "");
    const size_t start = text.find_first_not_of(' ');
    text = start == std::string::npos ? "" : text.substr(start, text.find_last_not_of(' ') - start + 1);
    for (const char* mark : {" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"}) {
        const std::string whole = mark;
        replace(whole, whole == " ' " ? "'" : whole.substr(1));
    }
    for (char& letter : text)
        if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
    if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
    return text;
}

const char* name_at(const std::vector<std::string>& names, int64_t i) {
    return i >= 0 && i < static_cast<int64_t>(names.size()) ? names[static_cast<size_t>(i)].c_str() : nullptr;
}

}  // namespace

yolor_edge_status yolor_edge_bundle_open(const char* folder, yolor_edge_bundle** bundle) {
    return guarded([&] {
        require_given("bundle", bundle);
        *bundle = nullptr;
        require_given("folder", folder);
        *bundle = read_bundle(folder).release();
    });
}

void yolor_edge_bundle_close(yolor_edge_bundle* bundle) {
    delete bundle;
}

yolor_edge_status yolor_edge_bundle_describe(const yolor_edge_bundle* bundle, yolor_edge_bundle_info* info,
                                             size_t size) {
    return guarded([&] {
        require_given("bundle", bundle);
        give("info", bundle->info, info, size);
    });
}

const char* yolor_edge_bundle_class_name(const yolor_edge_bundle* bundle, int64_t i) {
    return bundle != nullptr ? name_at(bundle->class_names, i) : nullptr;
}

const char* yolor_edge_bundle_semantic_name(const yolor_edge_bundle* bundle, int64_t i) {
    return bundle != nullptr ? name_at(bundle->semantic_names, i) : nullptr;
}

const char* yolor_edge_bundle_word(const yolor_edge_bundle* bundle, int64_t i) {
    return bundle != nullptr ? name_at(bundle->words, i) : nullptr;
}

const char* yolor_edge_bundle_file(const yolor_edge_bundle* bundle, const char* what, const char* precision) {
    if (bundle == nullptr || what == nullptr || precision == nullptr) return nullptr;
    // Compared as they are: what does not throw cannot leave an exception.
    for (const auto& [key, path] : bundle->files) {
        if (key.first == what && key.second == precision) return path.c_str();
    }
    return nullptr;
}

yolor_edge_status yolor_edge_bundle_caption_options(const yolor_edge_bundle* bundle,
                                                    yolor_edge_caption_options* options, size_t size) {
    return guarded([&] {
        require_given("bundle", bundle);
        const yolor_edge_bundle_info& info = bundle->info;
        if (info.word_count == 0) throw std::invalid_argument("bundle has no captions");
        yolor_edge_caption_options own{};
        own.size = sizeof own;
        own.beam_size = info.beam_size;
        own.max_length = info.max_length;
        own.bos_id = info.bos_id;
        own.eos_id = info.eos_id;
        own.pad_id = info.pad_id;
        own.length_penalty = info.length_penalty;
        own.forbidden = bundle->forbidden.data();
        own.forbidden_count = static_cast<int64_t>(bundle->forbidden.size());
        own.repetition_penalty = 1.0;
        own.budget_ms = -1.0;
        own.keeps_finished = info.keeps_finished;
        give("options", own, options, size);
    });
}

yolor_edge_status yolor_edge_bundle_text(const yolor_edge_bundle* bundle, const int64_t* tokens,
                                         int64_t count, char* text, size_t capacity, size_t* length) {
    return guarded([&] {
        require_given("bundle", bundle);
        require_between("count", 0, kMostTokens, count);
        if (count > 0) require_given("tokens", tokens);
        const yolor_edge_bundle_info& info = bundle->info;
        std::string made;
        for (int64_t i = 0; i < count; ++i) {
            const int64_t token = tokens[i];
            require_between("tokens", 0, info.word_count - 1, token);
            if (bundle->is_written[static_cast<size_t>(token)] == 0) continue;
            if (!made.empty()) made += ' ';
            made += bundle->words[static_cast<size_t>(token)];
        }
        if (bundle->is_bert) made = cleaned_up(std::move(made));
        give_text(made, text, capacity, length);
    });
}
