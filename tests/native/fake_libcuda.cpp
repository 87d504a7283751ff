// A driver of CUDA without a GPU: the functions that the runtime calls, over memory of the host. Built as
// libcuda.so.1 by the tests, so that the packages which lead to the driver, and all above them, run as they
// are.
//
// It is as lazy as a driver may be: work put into a stream is done when somebody waits for it, not earlier,
// so that a result read too soon is an old one. It is as strict, too: a call without a current context fails,
// as do one with memory that was freed and an allocation over what there is (FAKE_CUDA_MIB, by default 64).
// fake_cuda_living() counts what was made and not freed.
//
// A module's image is "host module " and the path of a shared library. Its kernels are functions
//   extern "C" void NAME(void **parameters, const unsigned *grid, const unsigned *block, unsigned
//   shared_bytes)
// beside unsigned NAME_sizes[], the bytes of every parameter and a zero.

#include <dlfcn.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace {

enum : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY = 209,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    CAPTURE_UNSUPPORTED = 900,
};

const std::map<int, std::pair<const char*, const char*>> NAMES = {
    {SUCCESS, {"CUDA_SUCCESS", "no error"}},
    {INVALID_VALUE, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
    {OUT_OF_MEMORY, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
    {INVALID_DEVICE, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
    {INVALID_IMAGE, {"CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"}},
    {INVALID_CONTEXT, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
    {NO_BINARY, {"CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"}},
    {INVALID_HANDLE, {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}},
    {NOT_FOUND, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
    {NOT_READY, {"CUDA_ERROR_NOT_READY", "device not ready"}},
    {ILLEGAL_ADDRESS, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
    {CAPTURE_UNSUPPORTED,
     {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
};

using Work = std::function<void()>;

struct Stream {
    std::deque<Work> queue;
    bool capturing = false;
    int capture_mode = 0;  // 0 global, 1 of the thread, 2 relaxed
    std::thread::id captor;
    bool spoiled = false;
    std::vector<Work> captured;
    int error = SUCCESS;
};

struct Event {
    Stream* stream = nullptr;  // where it was recorded last and has not happened yet
    bool happened = true;
    std::chrono::steady_clock::time_point when;
};

struct Graph {
    std::vector<Work> work;
};

struct Module {
    void* library;
};

struct Function {
    void (*call)(void**, const unsigned*, const unsigned*, unsigned);
    const unsigned* sizes;
};

struct Context {};

std::recursive_mutex lock;
Context primary;
int retained = 0;
thread_local std::vector<Context*> current;
std::map<uintptr_t, size_t> device_memory;
std::map<uintptr_t, size_t> host_memory;
std::set<Stream*> streams;
std::set<Event*> events;
std::set<Graph*> graphs;
std::set<Module*> modules;
std::vector<std::unique_ptr<Function>> functions;
long launches = 0, replays = 0;

using Guard = std::lock_guard<std::recursive_mutex>;

#define NEEDS_CONTEXT  \
    Guard guard(lock); \
    if (current.empty() || retained == 0) return INVALID_CONTEXT

size_t total_bytes() {
    const char* mib = std::getenv("FAKE_CUDA_MIB");
    return size_t(mib != nullptr ? std::atol(mib) : 64) << 20;
}

size_t used_bytes() {
    size_t used = 0;
    for (auto& [address, size] : device_memory) used += size;
    return used;
}

bool lies_in(const std::map<uintptr_t, size_t>& memory, uintptr_t address, size_t size) {
    auto next = memory.upper_bound(address);
    if (next == memory.begin()) return false;
    auto& [start, length] = *std::prev(next);
    return address >= start && address + size <= start + length;
}

bool device_sees(uintptr_t address, size_t size) {
    return lies_in(device_memory, address, size) || lies_in(host_memory, address, size);
}

void drain(Stream& stream) {
    while (!stream.queue.empty()) {
        Work work = std::move(stream.queue.front());
        stream.queue.pop_front();
        work();
    }
}

void drain_all() {
    for (Stream* stream : streams) drain(*stream);
}

int put(Stream* stream, Work work) {
    if (streams.count(stream) == 0) return INVALID_HANDLE;
    if (stream->capturing)
        stream->captured.push_back(std::move(work));
    else
        stream->queue.push_back(std::move(work));
    return SUCCESS;
}

// A wait on the host, which ends every capture of a stream.
int wait_allowed(Stream* stream) {
    if (streams.count(stream) == 0) return INVALID_HANDLE;
    if (!stream->capturing) return SUCCESS;
    stream->spoiled = true;
    return CAPTURE_UNSUPPORTED;
}

int copy(uintptr_t target, uintptr_t source, size_t size, Stream* stream) {
    return put(stream, [=] {
        // Looked at when it is done: memory freed meanwhile is an error of the stream.
        bool fine = (device_sees(target, size) || device_sees(source, size));
        if (!fine)
            stream->error = ILLEGAL_ADDRESS;
        else
            std::memmove(reinterpret_cast<void*>(target), reinterpret_cast<const void*>(source), size);
    });
}

}  // namespace

extern "C" {

int fake_cuda_living() {
    Guard guard(lock);
    return int(device_memory.size() + host_memory.size() + streams.size() + events.size() + graphs.size() +
               modules.size()) +
           retained;
}
int fake_cuda_contexts() {
    return int(current.size());
}
long fake_cuda_launches() {
    return launches;
}
long fake_cuda_replays() {
    return replays;
}

int cuInit(unsigned) {
    return std::getenv("FAKE_CUDA_NONE") != nullptr ? 100 : SUCCESS;
}
int cuDriverGetVersion(int* version) {
    *version = 13000;
    return SUCCESS;
}
int cuGetErrorName(int code, const char** name) {
    auto found = NAMES.find(code);
    *name = found == NAMES.end() ? "CUDA_ERROR_UNKNOWN" : found->second.first;
    return SUCCESS;
}
int cuGetErrorString(int code, const char** text) {
    auto found = NAMES.find(code);
    *text = found == NAMES.end() ? (code == 100 ? "no CUDA-capable device is detected" : "unknown error")
                                 : found->second.second;
    return SUCCESS;
}

int cuDeviceGetCount(int* count) {
    *count = 1;
    return SUCCESS;
}
int cuDeviceGet(int* device, int index) {
    *device = index;
    return index == 0 ? SUCCESS : INVALID_DEVICE;
}
int cuDeviceGetName(char* name, int size, int) {
    const char* asked = std::getenv("FAKE_CUDA_NAME");
    std::snprintf(name, size_t(size), "%s", asked != nullptr ? asked : "Pretended GPU");
    return SUCCESS;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
    const char* integrated = std::getenv("FAKE_CUDA_INTEGRATED");
    *value = attribute == 75   ? 8
             : attribute == 76 ? 6
             : attribute == 16 ? 4
             : attribute == 18 ? integrated != nullptr
                               : 1;
    return SUCCESS;
}
int cuDeviceComputeCapability(int* major, int* minor, int) {
    *major = 8;
    *minor = 6;
    return SUCCESS;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = total_bytes();
    return SUCCESS;
}
int cuDeviceGetUuid(char* uuid, int) {
    std::memset(uuid, 1, 16);
    return SUCCESS;
}
int cuDeviceGetUuid_v2(char* uuid, int device) {
    return cuDeviceGetUuid(uuid, device);
}

int cuDevicePrimaryCtxRetain(Context** context, int device) {
    Guard guard(lock);
    if (device != 0) return INVALID_DEVICE;
    ++retained;
    *context = &primary;
    return SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    Guard guard(lock);
    if (device != 0 || retained == 0) return INVALID_CONTEXT;
    --retained;
    return SUCCESS;
}
int cuCtxPushCurrent_v2(Context* context) {
    if (context != &primary) return INVALID_CONTEXT;
    current.push_back(context);
    return SUCCESS;
}
int cuCtxPopCurrent_v2(Context** context) {
    if (current.empty()) return INVALID_CONTEXT;
    if (context != nullptr) *context = current.back();
    current.pop_back();
    return SUCCESS;
}
int cuCtxGetCurrent(Context** context) {
    *context = current.empty() ? nullptr : current.back();
    return SUCCESS;
}
int cuCtxGetDevice(int* device) {
    *device = 0;
    return current.empty() ? INVALID_CONTEXT : SUCCESS;
}
int cuCtxSynchronize() {
    NEEDS_CONTEXT;
    drain_all();
    return SUCCESS;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
    NEEDS_CONTEXT;
    *total = total_bytes();
    *free = *total - used_bytes();
    return SUCCESS;
}
int cuMemAlloc_v2(uintptr_t* address, size_t size) {
    NEEDS_CONTEXT;
    for (Stream* stream : streams) {
        const bool is_theirs = stream->capture_mode == 1 && stream->captor != std::this_thread::get_id();
        if (stream->capturing && !is_theirs && stream->capture_mode != 2) {
            stream->spoiled = true;
            return CAPTURE_UNSUPPORTED;
        }
    }
    if (size == 0) return INVALID_VALUE;
    if (size > total_bytes() - used_bytes()) return OUT_OF_MEMORY;
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, size) != 0) return OUT_OF_MEMORY;
    std::memset(memory, 0xa5, size);
    *address = reinterpret_cast<uintptr_t>(memory);
    device_memory[*address] = size;
    return SUCCESS;
}
int cuMemFree_v2(uintptr_t address) {
    NEEDS_CONTEXT;
    if (device_memory.count(address) == 0) return INVALID_VALUE;
    drain_all();
    device_memory.erase(address);
    std::free(reinterpret_cast<void*>(address));
    return SUCCESS;
}
int cuMemHostAlloc(void** memory, size_t size, unsigned) {
    NEEDS_CONTEXT;
    if (posix_memalign(memory, 256, size) != 0) return OUT_OF_MEMORY;
    std::memset(*memory, 0x5a, size);
    host_memory[reinterpret_cast<uintptr_t>(*memory)] = size;
    return SUCCESS;
}
int cuMemHostGetDevicePointer_v2(uintptr_t* address, void* memory, unsigned) {
    NEEDS_CONTEXT;
    *address = reinterpret_cast<uintptr_t>(memory);
    return host_memory.count(*address) == 0 ? INVALID_VALUE : SUCCESS;
}
int cuMemFreeHost(void* memory) {
    NEEDS_CONTEXT;
    if (host_memory.count(reinterpret_cast<uintptr_t>(memory)) == 0) return INVALID_VALUE;
    drain_all();
    host_memory.erase(reinterpret_cast<uintptr_t>(memory));
    std::free(memory);
    return SUCCESS;
}
int cuMemcpyHtoDAsync_v2(uintptr_t target, const void* source, size_t size, Stream* stream) {
    NEEDS_CONTEXT;
    if (!device_sees(target, size)) return INVALID_VALUE;
    uintptr_t from = reinterpret_cast<uintptr_t>(source);
    if (lies_in(host_memory, from, size) || (streams.count(stream) != 0 && stream->capturing))
        return copy(target, from, size, stream);
    auto staged = std::make_shared<std::string>(static_cast<const char*>(source), size);
    return put(stream, [=] { std::memcpy(reinterpret_cast<void*>(target), staged->data(), size); });
}
int cuMemcpyDtoHAsync_v2(void* target, uintptr_t source, size_t size, Stream* stream) {
    NEEDS_CONTEXT;
    if (!device_sees(source, size)) return INVALID_VALUE;
    uintptr_t to = reinterpret_cast<uintptr_t>(target);
    int code = copy(to, source, size, stream);
    if (code == SUCCESS && !stream->capturing && !lies_in(host_memory, to, size)) drain(*stream);
    return code;
}
int cuMemcpyDtoDAsync_v2(uintptr_t target, uintptr_t source, size_t size, Stream* stream) {
    NEEDS_CONTEXT;
    if (!device_sees(target, size) || !device_sees(source, size)) return INVALID_VALUE;
    return copy(target, source, size, stream);
}
int cuMemsetD8Async(uintptr_t target, unsigned char value, size_t size, Stream* stream) {
    NEEDS_CONTEXT;
    if (!device_sees(target, size)) return INVALID_VALUE;
    return put(stream, [=] { std::memset(reinterpret_cast<void*>(target), value, size); });
}

int cuStreamCreate(Stream** stream, unsigned) {
    NEEDS_CONTEXT;
    *stream = new Stream;
    streams.insert(*stream);
    return SUCCESS;
}
int cuStreamDestroy_v2(Stream* stream) {
    NEEDS_CONTEXT;
    if (streams.count(stream) == 0) return INVALID_HANDLE;
    drain(*stream);
    for (Event* event : events)
        if (event->stream == stream) event->stream = nullptr;
    streams.erase(stream);
    delete stream;
    return SUCCESS;
}
int cuStreamSynchronize(Stream* stream) {
    NEEDS_CONTEXT;
    int code = wait_allowed(stream);
    if (code != SUCCESS) return code;
    drain(*stream);
    return stream->error;
}
int cuStreamQuery(Stream* stream) {
    NEEDS_CONTEXT;
    int code = wait_allowed(stream);
    if (code != SUCCESS) return code;
    if (stream->queue.empty()) return stream->error;
    drain(*stream);  // the next time it is asked
    return NOT_READY;
}
int cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    NEEDS_CONTEXT;
    if (events.count(event) == 0) return INVALID_HANDLE;
    Stream* other = event->stream;
    return put(stream, [=] {
        if (!event->happened && other != nullptr && other != stream) drain(*other);
    });
}
int cuLaunchHostFunc(Stream* stream, void (*call)(void*), void* data) {
    NEEDS_CONTEXT;
    return put(stream, [=] { call(data); });
}

int cuEventCreate(Event** event, unsigned) {
    NEEDS_CONTEXT;
    *event = new Event;
    events.insert(*event);
    return SUCCESS;
}
int cuEventDestroy_v2(Event* event) {
    NEEDS_CONTEXT;
    if (events.count(event) == 0) return INVALID_HANDLE;
    drain_all();
    events.erase(event);
    delete event;
    return SUCCESS;
}
int cuEventRecord(Event* event, Stream* stream) {
    NEEDS_CONTEXT;
    if (events.count(event) == 0 || streams.count(stream) == 0) return INVALID_HANDLE;
    event->stream = stream;
    event->happened = false;
    return put(stream, [=] {
        event->happened = true;
        event->when = std::chrono::steady_clock::now();
    });
}
int cuEventSynchronize(Event* event) {
    NEEDS_CONTEXT;
    if (events.count(event) == 0) return INVALID_HANDLE;
    if (event->stream != nullptr && !event->happened) drain(*event->stream);
    return SUCCESS;
}
int cuEventQuery(Event* event) {
    NEEDS_CONTEXT;
    return events.count(event) == 0 ? INVALID_HANDLE : event->happened ? SUCCESS : NOT_READY;
}
int cuEventElapsedTime(float* ms, Event* start, Event* end) {
    NEEDS_CONTEXT;
    if (events.count(start) == 0 || events.count(end) == 0) return INVALID_HANDLE;
    if (!start->happened || !end->happened) return NOT_READY;
    *ms = std::chrono::duration<float, std::milli>(end->when - start->when).count();
    return SUCCESS;
}
int cuEventElapsedTime_v2(float* ms, Event* start, Event* end) {
    return cuEventElapsedTime(ms, start, end);
}

int cuStreamBeginCapture_v2(Stream* stream, int mode) {
    NEEDS_CONTEXT;
    if (streams.count(stream) == 0) return INVALID_HANDLE;
    if (stream->capturing || std::getenv("FAKE_CUDA_NO_CAPTURE") != nullptr) return CAPTURE_UNSUPPORTED;
    stream->capturing = true;
    stream->capture_mode = mode;
    stream->captor = std::this_thread::get_id();
    stream->spoiled = false;
    return SUCCESS;
}
int cuStreamEndCapture(Stream* stream, Graph** graph) {
    NEEDS_CONTEXT;
    if (streams.count(stream) == 0 || !stream->capturing) return INVALID_VALUE;
    stream->capturing = false;
    std::vector<Work> work = std::move(stream->captured);
    stream->captured.clear();
    *graph = nullptr;
    if (stream->spoiled) return 901;
    *graph = new Graph{std::move(work)};
    graphs.insert(*graph);
    return SUCCESS;
}
int cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long) {
    NEEDS_CONTEXT;
    if (graphs.count(graph) == 0) return INVALID_HANDLE;
    *executable = new Graph(*graph);
    graphs.insert(*executable);
    return SUCCESS;
}
int cuGraphDestroy(Graph* graph) {
    NEEDS_CONTEXT;
    if (graphs.erase(graph) == 0) return INVALID_HANDLE;
    delete graph;
    return SUCCESS;
}
int cuGraphExecDestroy(Graph* graph) {
    return cuGraphDestroy(graph);
}
int cuGraphLaunch(Graph* graph, Stream* stream) {
    NEEDS_CONTEXT;
    if (graphs.count(graph) == 0) return INVALID_HANDLE;
    ++replays;
    std::vector<Work> work = graph->work;
    return put(stream, [work] {
        for (const Work& step : work) step();
    });
}

int cuModuleLoadData(Module** module, const void* image) {
    NEEDS_CONTEXT;
    const char* text = static_cast<const char*>(image);
    const char* const start = "host module ";
    if (std::strncmp(text, start, std::strlen(start)) != 0) return INVALID_IMAGE;
    void* library = dlopen(text + std::strlen(start), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return NO_BINARY;
    *module = new Module{library};
    modules.insert(*module);
    return SUCCESS;
}
int cuModuleLoadDataEx(Module** module, const void* image, unsigned, int*, void**) {
    return cuModuleLoadData(module, image);
}
int cuModuleUnload(Module* module) {
    NEEDS_CONTEXT;
    if (modules.erase(module) == 0) return INVALID_HANDLE;
    drain_all();
    dlclose(module->library);
    delete module;
    return SUCCESS;
}
int cuModuleGetFunction(Function** function, Module* module, const char* name) {
    NEEDS_CONTEXT;
    if (modules.count(module) == 0) return INVALID_HANDLE;
    void* call = dlsym(module->library, name);
    void* sizes = dlsym(module->library, (std::string(name) + "_sizes").c_str());
    if (call == nullptr || sizes == nullptr) return NOT_FOUND;
    functions.push_back(std::make_unique<Function>(
        Function{reinterpret_cast<decltype(Function::call)>(call), static_cast<const unsigned*>(sizes)}));
    *function = functions.back().get();
    return SUCCESS;
}
int cuFuncSetBlockShape(Function*, int, int, int) {
    return SUCCESS;
}
int cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, Stream* stream, void** parameters, void** extra) {
    NEEDS_CONTEXT;
    if (gx * gy * gz == 0 || bx * by * bz == 0 || bx * by * bz > 1024) return INVALID_VALUE;
    // Parameters come one by one, or packed into a buffer in the way of a C structure.
    auto values = std::make_shared<std::vector<std::vector<char>>>();
    const char* packed = extra != nullptr ? static_cast<const char*>(extra[1]) : nullptr;
    size_t offset = 0;
    for (size_t i = 0; function->sizes[i] != 0; ++i) {
        size_t size = function->sizes[i], alignment = size < 8 ? size : 8;
        const char* value = nullptr;
        if (packed != nullptr) {
            offset = (offset + alignment - 1) / alignment * alignment;
            value = packed + offset;
            offset += size;
        } else {
            value = static_cast<const char*>(parameters[i]);
        }
        values->emplace_back(value, value + size);
    }
    std::vector<unsigned> grid = {gx, gy, gz}, block = {bx, by, bz};
    return put(stream, [=] {
        std::vector<void*> pointers;
        for (auto& value : *values) pointers.push_back(value.data());
        ++launches;
        function->call(pointers.data(), grid.data(), block.data(), shared);
    });
}

// The newest form of a function by its plain name.
int cuGetProcAddress_v2(const char* name, void** function, int, unsigned long long, int* status) {
    Dl_info self;
    dladdr(reinterpret_cast<void*>(&cuInit), &self);
    void* library = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    std::string plain = name;
    if (plain == "cuGraphInstantiate") plain = "cuGraphInstantiateWithFlags";
    *function = dlsym(library, (plain + "_v2").c_str());
    if (*function == nullptr) *function = dlsym(library, plain.c_str());
    if (status != nullptr) *status = *function == nullptr ? 1 : 0;
    return *function == nullptr ? NOT_FOUND : SUCCESS;
}

}  // extern "C"
