#include "network.hpp"

#include <cstdint>
#include <stdexcept>

#include "pictures.hpp"

Heads heads_from_folder(const std::string& folder, const std::vector<std::string>& names) {
    Heads heads;
    for (const std::string& name : names) heads[name] = read_floats(folder + "/" + name + ".f32");
    return heads;
}

#ifdef WITH_ONNXRUNTIME

#include <onnxruntime_c_api.h>

#include <memory>

namespace {

// The oldest version of the interface that has all that is called here: any ONNX Runtime since 1.13 will do.
constexpr uint32_t kApiVersion = 13;

/// The C interface of ONNX Runtime, with failures as exceptions.
class Runtime {
  public:
    Runtime() : api_(OrtGetApiBase()->GetApi(kApiVersion)) {
        if (api_ == nullptr) throw std::runtime_error("ONNX Runtime is older than 1.13");
    }
    const OrtApi* operator->() const { return api_; }

    void check(OrtStatus* status) const {
        if (status == nullptr) return;
        const std::string message = api_->GetErrorMessage(status);
        api_->ReleaseStatus(status);
        throw std::runtime_error("ONNX Runtime: " + message);
    }

    template <class Thing>
    static std::shared_ptr<Thing> owned(Thing* thing, void(ORT_API_CALL* release)(Thing*)) {
        return {thing, release};
    }

  private:
    const OrtApi* api_;
};

}  // namespace

bool has_onnxruntime() {
    return true;
}

Heads heads_from_onnxruntime(const std::string& graph, const std::vector<float>& images, long height,
                             long width, const std::vector<std::string>& names) {
    const Runtime ort;
    // A robot makes environment, options and session once, and keeps them.
    OrtEnv* env = nullptr;
    ort.check(ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "yolor-edge", &env));
    const auto env_owner = Runtime::owned(env, ort->ReleaseEnv);
    OrtSessionOptions* options = nullptr;
    ort.check(ort->CreateSessionOptions(&options));
    const auto options_owner = Runtime::owned(options, ort->ReleaseSessionOptions);
    ort.check(ort->SetIntraOpNumThreads(options, 1));
    OrtSession* session = nullptr;
    ort.check(ort->CreateSession(env, graph.c_str(), options, &session));
    const auto session_owner = Runtime::owned(session, ort->ReleaseSession);

    OrtMemoryInfo* memory = nullptr;
    ort.check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    const auto memory_owner = Runtime::owned(memory, ort->ReleaseMemoryInfo);
    const int64_t shape[4] = {1, 3, height, width};
    OrtValue* input = nullptr;
    // Not written to, whatever the interface says.
    ort.check(ort->CreateTensorWithDataAsOrtValue(memory, const_cast<float*>(images.data()),
                                                  images.size() * sizeof(float), shape, 4,
                                                  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input));
    const auto input_owner = Runtime::owned(input, ort->ReleaseValue);

    const char* input_names[] = {"images"};
    std::vector<const char*> output_names;
    for (const std::string& name : names) output_names.push_back(name.c_str());
    std::vector<OrtValue*> outputs(names.size(), nullptr);
    ort.check(ort->Run(session, nullptr, input_names, &input, 1, output_names.data(), names.size(),
                       outputs.data()));
    Heads heads;
    for (size_t i = 0; i < names.size(); ++i) {
        const auto output_owner = Runtime::owned(outputs[i], ort->ReleaseValue);
        OrtTensorTypeAndShapeInfo* info = nullptr;
        ort.check(ort->GetTensorTypeAndShape(outputs[i], &info));
        const auto info_owner = Runtime::owned(info, ort->ReleaseTensorTypeAndShapeInfo);
        size_t count = 0;
        ort.check(ort->GetTensorShapeElementCount(info, &count));
        void* data = nullptr;
        ort.check(ort->GetTensorMutableData(outputs[i], &data));
        heads[names[i]].assign(static_cast<float*>(data), static_cast<float*>(data) + count);
    }
    return heads;
}

#else

bool has_onnxruntime() {
    return false;
}

Heads heads_from_onnxruntime(const std::string&, const std::vector<float>&, long, long,
                             const std::vector<std::string>&) {
    throw std::runtime_error("built without ONNX Runtime");
}

#endif
