// A CUDA driver (libcuda.so.1) without a GPU, for tests: what PyCUDA calls to use memory, streams, events and kernels.
//
// It is made to find mistakes rather than to be fast:
// - Streams are lazy: work runs only when the host waits for it. Who forgets to wait gets no result, every time.
// - Device and page-locked memory is host memory, but filled with 0xCD at first and with 0xDD when it is freed.
// - Around each block of device memory lie guards; work that changed them is an error.
// - Addresses are checked when work is queued, arguments against the kernel's parameters, barriers for completeness.
// - A stream can be captured into a graph; what a GPU does not allow meanwhile is an error.
// - What the host did is counted: see emulated_count.
// A cubin is a shared library with the kernels, from the file `nvcc` beside this. All runs on the waiting thread.
// EMULATED_ORDER in the environment changes the order of blocks and threads: see `order` in kernels.h.
#include <cuda.h>
#include <dlfcn.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr std::size_t GUARD = 512;
constexpr unsigned char FRESH = 0xCD, GUARDING = 0xCB, FREED = 0xDD;

constexpr std::size_t MEMORY = 1ul << 32;  // of the device

struct Memory {
    std::unique_ptr<char[]> bytes;  // with a guard before and after
    std::size_t size;
    char* begin() const {  // at a multiple of 256, as CUDA's
        return (char*)(((std::uintptr_t)bytes.get() + GUARD + 255) / 256 * 256);
    }
};

struct Task {
    std::function<CUresult()> run;
    CUevent event;  // recorded by this task, or null
};

}  // namespace

// The opaque types of cuda.h.
struct CUctx_st {};
struct CUgraph_st {
    std::vector<Task> tasks;
};
struct CUgraphExec_st {
    std::vector<Task> tasks;
};
struct CUstream_st {
    unsigned flags;
    std::deque<Task> tasks;
    CUgraph capturing = nullptr;
};
struct CUevent_st {
    CUstream recorded_in = nullptr;
    unsigned pending = 0;  // recordings that have not run
    bool destroyed = false;
};
struct CUmod_st {
    void* library;
    std::map<std::string, CUfunction> functions;
};
struct CUfunc_st {
    std::size_t (*size)();
    bool (*run)(const unsigned* grid, const unsigned* threads, char* arguments, unsigned seed);
};

namespace {

CUctx_st primary;
int retained = 0;
bool initialised = false;
CUresult failure = CUDA_SUCCESS;  // as on a GPU, nothing works after a kernel went wrong
thread_local std::vector<CUcontext> contexts;

std::map<char*, Memory> device_memory, host_memory;
std::vector<Memory> freed;  // queued work may still touch it
std::set<CUstream> streams;
CUstream_st default_stream{CU_STREAM_DEFAULT, {}, nullptr};
CUstream captured = nullptr;  // the stream that is being captured
bool capture_failed = false;
std::set<CUevent> events;
std::set<CUmodule> modules;
std::map<std::string, long> counts;

unsigned seed() {
    const char* text = std::getenv("EMULATED_ORDER");
    return text ? std::strtoul(text, nullptr, 10) : 0;
}

CUresult complain(CUresult result, const char* what) {
    std::fprintf(stderr, "emulated driver: %s\n", what);
    return result;
}

CUresult current() {
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (contexts.empty() || !retained) return CUDA_ERROR_INVALID_CONTEXT;
    return failure;
}

// For calls that wait or allocate.
CUresult current_and_not_capturing() {
    if (!captured) return current();
    return capture_failed = true, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

#define CHECK(call)                                        \
    do {                                                   \
        const CUresult checked = (call);                   \
        if (checked != CUDA_SUCCESS) return checked;       \
    } while (false)

// ---- memory ----

char* allocate(std::map<char*, Memory>& where, std::size_t size) {
    const std::size_t whole = size + 2 * GUARD + 256;
    Memory memory{std::make_unique<char[]>(whole), size};
    std::memset(memory.bytes.get(), GUARDING, whole);
    std::memset(memory.begin(), FRESH, size);
    char* const begin = memory.begin();
    where.emplace(begin, std::move(memory));
    return begin;
}

CUresult release(std::map<char*, Memory>& where, char* begin) {
    const auto found = where.find(begin);
    if (found == where.end()) return complain(CUDA_ERROR_INVALID_VALUE, "freed what is not allocated");
    std::memset(begin, FREED, found->second.size);
    freed.push_back(std::move(found->second));
    where.erase(found);
    return CUDA_SUCCESS;
}

bool within(const std::map<char*, Memory>& where, const void* address, std::size_t size) {
    char* const begin = (char*)address;
    auto after = where.upper_bound(begin);
    if (after == where.begin()) return false;
    const auto& [start, memory] = *std::prev(after);
    return begin + size <= start + memory.size;
}

CUresult on_device(CUdeviceptr address, std::size_t size) {
    if (within(device_memory, (void*)address, size)) return CUDA_SUCCESS;
    return complain(CUDA_ERROR_INVALID_VALUE, "an address range that is not allocated on the device");
}

bool guards_intact() {
    for (const auto& [begin, memory] : device_memory)
        for (std::size_t i = 0; i < GUARD; i++)
            if ((unsigned char)begin[-1 - (long)i] != GUARDING || (unsigned char)begin[memory.size + i] != GUARDING)
                return false;
    return true;
}

// ---- streams ----

CUstream stream_of(CUstream stream) {
    return !stream || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD ? &default_stream : stream;
}

CUresult queue(CUstream stream, std::function<CUresult()> run, CUevent event = nullptr) {
    stream = stream_of(stream);
    if (stream->capturing)
        stream->capturing->tasks.push_back({std::move(run), event});
    else
        stream->tasks.push_back({std::move(run), event});
    return CUDA_SUCCESS;
}

// Runs what is queued in a stream, at most until `event` is recorded.
CUresult drain(CUstream stream, CUevent event = nullptr) {
    unsigned recordings = event ? event->pending : 0;
    while (!stream->tasks.empty() && failure == CUDA_SUCCESS) {
        Task task = std::move(stream->tasks.front());
        stream->tasks.pop_front();
        failure = task.run();
        if (failure == CUDA_SUCCESS && !guards_intact())
            failure = complain(CUDA_ERROR_ILLEGAL_ADDRESS, "a kernel wrote outside an allocation");
        if (event && task.event == event && --recordings == 0) break;
    }
    return failure;
}

CUresult drain_all() {
    for (CUstream stream : streams) CHECK(drain(stream));
    return drain(&default_stream);
}

// What a call does that is not asynchronous: it waits for the default stream and those that are not "non-blocking".
CUresult synchronous() {
    CHECK(current_and_not_capturing());
    counts["waits"]++;
    for (CUstream stream : streams)
        if (!(stream->flags & CU_STREAM_NON_BLOCKING)) CHECK(drain(stream));
    return drain(&default_stream);
}

CUresult copy(CUstream stream, void* to, const void* from, std::size_t size, const void* host) {
    const auto run = [=] { return std::memmove(to, from, size), CUDA_SUCCESS; };
    if (!host || within(host_memory, host, size)) return queue(stream, run);
    CHECK(current_and_not_capturing());
    counts["pageable copies"]++;  // such a copy is not asynchronous
    counts["waits"]++;
    CHECK(drain(stream_of(stream)));
    return run();
}

CUresult fill(CUstream stream, CUdeviceptr to, const void* value, std::size_t width, std::size_t n, bool wait) {
    CHECK(current());
    CHECK(on_device(to, n * width));
    std::string bytes((const char*)value, width);
    queue(stream, [=] {
        for (std::size_t i = 0; i < n; i++) std::memcpy((char*)to + i * width, bytes.data(), width);
        return CUDA_SUCCESS;
    });
    return wait ? synchronous() : CUDA_SUCCESS;
}

}  // namespace

// How often something happened: "waits" (the host waited), "pageable copies", "allocations", "launches", "graphs",
// "copies to host", "copies to device"; or "live" (allocations, streams, events and modules that exist).
EXPORT long emulated_count(const char* what) {
    if (!std::strcmp(what, "live"))
        return device_memory.size() + host_memory.size() + streams.size() + events.size() + modules.size();
    return counts[what];
}

// ---- the driver and its device ----

EXPORT CUresult cuInit(unsigned) { return initialised = true, CUDA_SUCCESS; }
EXPORT CUresult cuDriverGetVersion(int* version) { return *version = CUDA_VERSION, CUDA_SUCCESS; }
EXPORT CUresult cuDeviceGetCount(int* count) { return *count = 1, CUDA_SUCCESS; }
EXPORT CUresult cuDeviceGet(CUdevice* device, int index) {
    return *device = 0, index ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetName(char* name, int size, CUdevice) {
    return std::snprintf(name, size, "emulated driver, no GPU"), CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceTotalMem(std::size_t* bytes, CUdevice) { return *bytes = 1ul << 32, CUDA_SUCCESS; }
EXPORT CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice) {
    return *major = 8, *minor = 7, CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 8; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 7; break;
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}
EXPORT CUresult cuGetErrorString(CUresult error, const char** text) {
    static thread_local char buffer[32];
    std::snprintf(buffer, sizeof buffer, "CUDA error %d", (int)error);
    return *text = buffer, CUDA_SUCCESS;
}

// ---- contexts: only the primary one ----

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    return retained++, *context = &primary, CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice) {
    if (!retained) return CUDA_ERROR_INVALID_CONTEXT;
    if (--retained) return CUDA_SUCCESS;
    if (!contexts.empty()) complain(CUDA_SUCCESS, "the context went and is still on the stack");
    if (failure == CUDA_SUCCESS) {
        if (emulated_count("live")) complain(CUDA_SUCCESS, "the context went before what was made in it");
        return CUDA_SUCCESS;
    }
    // What failed could not be destroyed; it goes with its context. The next one is fresh.
    for (CUstream stream : streams) delete stream;
    streams.clear(), events.clear(), modules.clear(), device_memory.clear(), host_memory.clear(), freed.clear();
    default_stream.tasks.clear();
    return failure = CUDA_SUCCESS;
}
EXPORT CUresult cuCtxPushCurrent(CUcontext context) {
    if (context != &primary || !retained) return CUDA_ERROR_INVALID_CONTEXT;
    return contexts.push_back(context), CUDA_SUCCESS;
}
EXPORT CUresult cuCtxPopCurrent(CUcontext* context) {
    if (contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = contexts.back();
    return contexts.pop_back(), CUDA_SUCCESS;
}
EXPORT CUresult cuCtxGetCurrent(CUcontext* context) {
    return *context = contexts.empty() ? nullptr : contexts.back(), CUDA_SUCCESS;
}
EXPORT CUresult cuCtxGetDevice(CUdevice* device) {
    CHECK(current());
    return *device = 0, CUDA_SUCCESS;
}
EXPORT CUresult cuCtxSynchronize() {
    CHECK(current_and_not_capturing());
    counts["waits"]++;
    return drain_all();
}

// ---- memory ----

EXPORT CUresult cuMemGetInfo(std::size_t* free, std::size_t* total) {
    CHECK(current());
    *free = *total = MEMORY;
    for (const auto& [begin, memory] : device_memory) *free -= memory.size;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemAlloc(CUdeviceptr* address, std::size_t size) {
    CHECK(current_and_not_capturing());
    if (!size) return CUDA_ERROR_INVALID_VALUE;
    if (size >= MEMORY) return CUDA_ERROR_OUT_OF_MEMORY;
    counts["allocations"]++;
    return *address = (CUdeviceptr)allocate(device_memory, size), CUDA_SUCCESS;
}
EXPORT CUresult cuMemFree(CUdeviceptr address) {
    CHECK(current_and_not_capturing());
    return release(device_memory, (char*)address);
}
EXPORT CUresult cuMemHostAlloc(void** address, std::size_t size, unsigned) {
    CHECK(current_and_not_capturing());
    if (!size) return CUDA_ERROR_INVALID_VALUE;
    counts["allocations"]++;
    return *address = allocate(host_memory, size), CUDA_SUCCESS;
}
EXPORT CUresult cuMemAllocHost(void** address, std::size_t size) { return cuMemHostAlloc(address, size, 0); }
EXPORT CUresult cuMemFreeHost(void* address) {
    CHECK(current_and_not_capturing());
    return release(host_memory, (char*)address);
}
EXPORT CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, std::size_t size, CUstream stream) {
    CHECK(current());
    CHECK(on_device(to, size));
    counts["copies to device"]++;
    return copy(stream, (void*)to, from, size, from);
}
EXPORT CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, std::size_t size, CUstream stream) {
    CHECK(current());
    CHECK(on_device(from, size));
    counts["copies to host"]++;
    return copy(stream, to, (void*)from, size, to);
}
EXPORT CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, std::size_t size, CUstream stream) {
    CHECK(current());
    CHECK(on_device(from, size));
    CHECK(on_device(to, size));
    return copy(stream, (void*)to, (void*)from, size, nullptr);
}
EXPORT CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, std::size_t size) {
    CHECK(cuMemcpyHtoDAsync(to, from, size, nullptr));
    return synchronous();
}
EXPORT CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, std::size_t size) {
    CHECK(cuMemcpyDtoHAsync(to, from, size, nullptr));
    return synchronous();
}
EXPORT CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, std::size_t size) {
    CHECK(cuMemcpyDtoDAsync(to, from, size, nullptr));
    return synchronous();
}
EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t n, CUstream stream) {
    return fill(stream, to, &value, sizeof value, n, false);
}
EXPORT CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, std::size_t n, CUstream stream) {
    return fill(stream, to, &value, sizeof value, n, false);
}
EXPORT CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, std::size_t n, CUstream stream) {
    return fill(stream, to, &value, sizeof value, n, false);
}
EXPORT CUresult cuMemsetD8(CUdeviceptr to, unsigned char value, std::size_t n) {
    return fill(nullptr, to, &value, sizeof value, n, true);
}
EXPORT CUresult cuMemsetD16(CUdeviceptr to, unsigned short value, std::size_t n) {
    return fill(nullptr, to, &value, sizeof value, n, true);
}
EXPORT CUresult cuMemsetD32(CUdeviceptr to, unsigned value, std::size_t n) {
    return fill(nullptr, to, &value, sizeof value, n, true);
}

// ---- streams and events ----

EXPORT CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
    CHECK(current());
    return *stream = *streams.insert(new CUstream_st{flags, {}, nullptr}).first, CUDA_SUCCESS;
}
EXPORT CUresult cuStreamDestroy(CUstream stream) {
    CHECK(drain(stream));  // on a GPU its work goes on by itself
    streams.erase(stream);
    return delete stream, CUDA_SUCCESS;
}
EXPORT CUresult cuStreamSynchronize(CUstream stream) {
    CHECK(current_and_not_capturing());
    counts["waits"]++;
    return drain(stream_of(stream));
}
EXPORT CUresult cuStreamQuery(CUstream stream) {
    CHECK(current_and_not_capturing());
    return stream_of(stream)->tasks.empty() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    CHECK(current());
    return queue(stream, [=] { return event->pending ? drain(event->recorded_in, event) : CUDA_SUCCESS; });
}
EXPORT CUresult cuEventCreate(CUevent* event, unsigned) {
    CHECK(current());
    return *event = *events.insert(new CUevent_st).first, CUDA_SUCCESS;
}
EXPORT CUresult cuEventDestroy(CUevent event) {
    events.erase(event);
    event->destroyed = true;
    if (!event->pending) delete event;  // otherwise when it is done
    return CUDA_SUCCESS;
}
EXPORT CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned flags) {
    CHECK(current());
    stream = stream_of(stream);
    if (!stream->capturing && flags) return CUDA_ERROR_INVALID_VALUE;
    if (stream->capturing && flags != CU_EVENT_RECORD_EXTERNAL)
        return capture_failed = true, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;  // only the graph would see it
    if (!stream->capturing) event->recorded_in = stream, event->pending++;
    const auto run = [=] {
        if (!--event->pending && event->destroyed) delete event;
        return CUDA_SUCCESS;
    };
    return queue(stream, run, event);
}
EXPORT CUresult cuEventRecord(CUevent event, CUstream stream) { return cuEventRecordWithFlags(event, stream, 0); }
EXPORT CUresult cuEventQuery(CUevent event) {  // does not run anything: who only asks, asks for ever
    CHECK(current_and_not_capturing());
    return event->pending ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}
EXPORT CUresult cuEventSynchronize(CUevent event) {
    CHECK(current_and_not_capturing());
    counts["waits"]++;
    return event->pending ? drain(event->recorded_in, event) : CUDA_SUCCESS;
}
EXPORT CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
    CHECK(current_and_not_capturing());
    if (!start->recorded_in || !end->recorded_in) return CUDA_ERROR_INVALID_HANDLE;
    if (start->pending || end->pending) return CUDA_ERROR_NOT_READY;
    return *milliseconds = 0, CUDA_SUCCESS;  // nothing here is a measure of a GPU
}
#ifdef cuEventElapsedTime  // a later version's name stands for it; both are there
#undef cuEventElapsedTime
EXPORT CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}
#endif

EXPORT CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
    CHECK(current());
    return queue(stream, [=] { return function(data), CUDA_SUCCESS; });
}

// ---- graphs: what a stream is given while it is captured, to be queued again ----

EXPORT CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode) {
    CHECK(current());
    if (captured || stream_of(stream) == &default_stream) return CUDA_ERROR_ILLEGAL_STATE;
    captured = stream, capture_failed = false;
    return stream->capturing = new CUgraph_st, CUDA_SUCCESS;
}
EXPORT CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
    *status = stream_of(stream)->capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
    CHECK(current());
    if (captured != stream) return CUDA_ERROR_ILLEGAL_STATE;
    *graph = std::exchange(stream->capturing, nullptr);
    captured = nullptr;
    if (!capture_failed) return CUDA_SUCCESS;
    delete *graph;
    return *graph = nullptr, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
}
EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
    CHECK(current());
    return *executable = new CUgraphExec_st{graph->tasks}, CUDA_SUCCESS;
}
EXPORT CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    CHECK(current());
    counts["graphs"]++;
    for (const Task& task : executable->tasks) {
        if (task.event) task.event->recorded_in = stream_of(stream), task.event->pending++;
        queue(stream, task.run, task.event);
    }
    return CUDA_SUCCESS;
}
EXPORT CUresult cuGraphExecDestroy(CUgraphExec executable) { return delete executable, CUDA_SUCCESS; }
EXPORT CUresult cuGraphDestroy(CUgraph graph) {
    if (!graph) return complain(CUDA_ERROR_INVALID_VALUE, "destroyed a graph that is none");
    return delete graph, CUDA_SUCCESS;
}

// ---- kernels ----

EXPORT CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned n, CUjit_option* options,
                                   void** values) {
    CHECK(current());
    for (unsigned i = 0; i < n; i++)  // no log
        if (options[i] == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES || options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
            values[i] = nullptr;
    // An ELF file ends with its table of sections.
    unsigned long sections;
    unsigned short size, number;
    std::memcpy(&sections, (const char*)image + 40, 8);
    std::memcpy(&size, (const char*)image + 58, 2), std::memcpy(&number, (const char*)image + 60, 2);
    const std::size_t length = sections + size * number;
    if (std::memcmp(image, "\177ELF", 4)) return CUDA_ERROR_INVALID_IMAGE;
    char path[] = "/tmp/emulated_cubin_XXXXXX";
    const int file = mkstemp(path);
    const bool written = file >= 0 && write(file, image, length) == (ssize_t)length;
    if (file >= 0) close(file);
    void* const library = written ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (file >= 0) unlink(path);
    if (!library) return complain(CUDA_ERROR_INVALID_IMAGE, written ? dlerror() : "no room in /tmp");
    return *module = *modules.insert(new CUmod_st{library, {}}).first, CUDA_SUCCESS;
}
EXPORT CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    return cuModuleLoadDataEx(module, image, 0, nullptr, nullptr);
}
EXPORT CUresult cuModuleUnload(CUmodule module) {
    CHECK(drain_all());  // queued launches need it
    for (auto& [name, function] : module->functions) delete function;
    dlclose(module->library);
    modules.erase(module);
    return delete module, CUDA_SUCCESS;
}
EXPORT CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    CHECK(current());
    CUfunction& known = module->functions[name];
    if (!known) {
        CUfunc_st found;
        found.size = (decltype(found.size))dlsym(module->library, (std::string("emulated_size_") + name).c_str());
        found.run = (decltype(found.run))dlsym(module->library, (std::string("emulated_run_") + name).c_str());
        if (!found.size || !found.run) return module->functions.erase(name), CUDA_ERROR_NOT_FOUND;
        known = new CUfunc_st(found);
    }
    return *function = known, CUDA_SUCCESS;
}
EXPORT CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction) {
    return *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0, CUDA_SUCCESS;
}
// PyCUDA calls it, and says it again with each launch.
EXPORT CUresult cuFuncSetBlockShape(CUfunction, int, int, int) { return CUDA_SUCCESS; }
EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                               unsigned block_y, unsigned block_z, unsigned, CUstream stream, void**, void** extra) {
    CHECK(current());
    const unsigned long blocks = 1ul * grid_x * grid_y * grid_z, threads = 1ul * block_x * block_y * block_z;
    if (!blocks || !threads || threads > 1024)
        return complain(CUDA_ERROR_INVALID_VALUE, "no grid or block has that size");
    const void* buffer = nullptr;  // PyCUDA passes arguments in one buffer
    std::size_t size = 0;
    for (; extra && *extra != CU_LAUNCH_PARAM_END; extra += 2) {
        if (*extra == CU_LAUNCH_PARAM_BUFFER_POINTER) buffer = extra[1];
        if (*extra == CU_LAUNCH_PARAM_BUFFER_SIZE) size = *(std::size_t*)extra[1];
    }
    if (size != function->size())
        return complain(CUDA_ERROR_INVALID_VALUE, "arguments of another size than the kernel's parameters");
    std::vector<std::max_align_t> arguments(size / sizeof(std::max_align_t) + 1);
    if (size) std::memcpy(arguments.data(), buffer, size);
    counts["launches"]++;
    return queue(stream, [=]() mutable {
        const unsigned grid[] = {grid_x, grid_y, grid_z}, block[] = {block_x, block_y, block_z};
        if (function->run(grid, block, (char*)arguments.data(), seed())) return CUDA_SUCCESS;
        return complain(CUDA_ERROR_LAUNCH_FAILED, "some threads of a block ended while others wait at a barrier");
    });
}
