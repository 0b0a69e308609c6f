// Runs a compiled library on the chip it was made for: C++ and TVM's runtime, neither Python nor torch.
//
//   runner FOLDER OUT [SECONDS] -- IN.npy...
//
// FOLDER holds library.so, arguments.txt and arguments.bin as `chipfit compile --target` writes them. Each output goes
// to OUT/<its place>.npy. With SECONDS the call is repeated for that long, its best and median time are printed, and
// for as long again the least time of each kernel is sought. Linked as a library it is the function `run`, for a server
// of TVM's RPC to load: all files start with the same PLACE, the inputs are PLACE + in0.npy, ..., and the times are its
// result.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/tvm_ffi.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iomanip>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace ffi = tvm::ffi;

namespace {

constexpr size_t kAlignment = 64;  // bytes, of a vector load
constexpr int kPooled = 2;         // the VM's pooling allocator

[[noreturn]] void Fail(const std::string& sentence) { throw std::runtime_error(sentence); }

// One line of arguments.txt: what it is, numpy's name of its type, where its bytes start, its shape.
struct Entry {
  std::string kind, type;
  size_t offset = 0;
  std::vector<int64_t> shape;

  size_t ItemBytes() const { return std::strtoul(type.c_str() + 2, nullptr, 10); }

  size_t Bytes() const {
    size_t bytes = ItemBytes();
    for (int64_t extent : shape) bytes *= extent;
    return bytes;
  }

  DLDataType Type() const {
    const char letters[] = {'i', 'u', 'f', 'b'};
    const uint8_t codes[] = {kDLInt, kDLUInt, kDLFloat, kDLBool};
    for (int i = 0; i < 4; ++i)
      if (type[1] == letters[i]) return {codes[i], static_cast<uint8_t>(8 * ItemBytes()), 1};
    Fail("arguments.txt names the type " + type + ", which this runner doesn't know: compile the model again.");
  }
};

struct Plan {
  int threads = 1;
  size_t arena = 0;  // bytes of what is computed on the way
  std::vector<Entry> inputs, weights, places, outputs;

  std::vector<Entry>& List(const std::string& kind) {
    return kind == "input" ? inputs : kind == "output" ? outputs : kind == "place" ? places : weights;
  }
};

Plan ReadPlan(const std::string& path) {
  std::ifstream file(path);
  if (!file) Fail(path + " can't be read: copy the whole artifact.");
  Plan plan;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    Entry entry;
    words >> entry.kind;
    if (entry.kind == "threads") {
      words >> plan.threads;
      continue;
    }
    if (entry.kind == "arena") {
      words >> plan.arena;
      continue;
    }
    words >> entry.type >> entry.offset;
    for (int64_t extent; words >> extent;) entry.shape.push_back(extent);
    plan.List(entry.kind).push_back(entry);
  }
  return plan;
}

// Memory that somebody else owns, as a tensor's.
struct Place {
  void* data;
  void AllocData(DLTensor* tensor) { tensor->data = data; }
  void FreeData(DLTensor*) {}
};

ffi::Tensor TensorAt(void* data, const Entry& entry) {
  return ffi::Tensor::FromNDAlloc(Place{data}, ffi::Shape(entry.shape), entry.Type(), DLDevice{kDLCPU, 0});
}

struct Free {
  void operator()(char* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<char, Free>;

Memory Allocate(size_t bytes) {
  return Memory(static_cast<char*>(std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment)));
}

// A file in memory: weights stay on disk until a page is read, and start where vectors do.
class Mapped {
 public:
  Mapped(const std::string& path, const std::vector<Entry>& entries) {
    if (entries.empty()) return;
    int file = open(path.c_str(), O_RDONLY);
    struct stat status {};
    if (file < 0 || fstat(file, &status)) Fail(path + " can't be read: copy the whole artifact.");
    for (const Entry& entry : entries)
      if (entry.offset + entry.Bytes() > static_cast<size_t>(status.st_size))
        Fail(path + " is too short: copy the whole artifact.");
    size_ = status.st_size;
    void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (memory == MAP_FAILED) Fail(path + " can't be mapped: free some memory.");
    close(file);
    start_ = static_cast<char*>(memory);
  }

  Mapped(const Mapped&) = delete;

  ~Mapped() {
    if (start_) munmap(start_, size_);
  }

  char* At(size_t offset) const { return start_ + offset; }

 private:
  char* start_ = nullptr;
  size_t size_ = 0;
};

// The elements of an .npy file (numpy's format 1 to 3), which must be of the wanted type and size.
void ReadArray(const std::string& path, const Entry& wanted, char* into) {
  std::ifstream file(path, std::ios::binary);
  char start[12] = {};
  file.read(start, 10);
  size_t length = static_cast<uint8_t>(start[8]) | static_cast<uint8_t>(start[9]) << 8;
  if (start[6] > 1) {
    file.read(start + 10, 2);
    length |= static_cast<size_t>(static_cast<uint8_t>(start[10])) << 16 | static_cast<size_t>(start[11]) << 24;
  }
  std::string header(length, ' ');
  if (!file.read(header.data(), length) || std::memcmp(start, "\x93NUMPY", 6))
    Fail(path + " is no .npy file: write it with numpy.save.");
  if (header.find("'" + wanted.type + "'") == std::string::npos || header.find("'fortran_order': False") == std::string::npos)
    Fail(path + " doesn't hold " + wanted.type + " in C order, which the model takes.");
  if (!file.read(into, wanted.Bytes()) || file.peek() != EOF)
    Fail(path + " doesn't have the shape that the model takes.");
}

void WriteArray(const std::string& path, const Entry& entry, const void* data) {
  std::ostringstream header;
  header << "{'descr': '" << entry.type << "', 'fortran_order': False, 'shape': (";
  for (int64_t extent : entry.shape) header << extent << ", ";
  header << "), }";
  std::string text = header.str();
  text.append(kAlignment - (10 + text.size() + 1) % kAlignment, ' ');
  text += '\n';
  std::ofstream file(path, std::ios::binary);
  const char start[] = {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, static_cast<char>(text.size()),
                        static_cast<char>(text.size() >> 8)};
  file.write(start, sizeof start).write(text.data(), text.size());
  if (!file.write(static_cast<const char*>(data), entry.Bytes()) || !file.flush())
    Fail(path + " can't be written: check that the folder exists and the disk has room.");
}

ffi::Function Global(const char* name) { return ffi::Function::GetGlobalRequired(name); }

// By TVM's C interface alone, so that no C++ symbol or exception has to pass between two C++ libraries.
ffi::Function Method(const ffi::Any& module, const char* name) {
  return Global("ffi.ModuleGetFunction")(module, ffi::String(name), true).cast<ffi::Function>();
}

double Milliseconds(const ffi::Function& call, ffi::Any* result) {
  auto start = std::chrono::steady_clock::now();
  call.CallPacked(nullptr, 0, result);
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

// The least time of each kernel, in the order of the calls.
class KernelClock {
 public:
  // What the VM calls before and after each of its functions: its symbol is the second argument, which of both the third.
  ffi::Function Watch() {
    return ffi::Function::FromPacked([this](const ffi::AnyView* given, int32_t, ffi::Any* result) {
      if (given[2].cast<bool>())
        started_ = std::chrono::steady_clock::now();
      else
        Add(given[1].cast<ffi::String>(), std::chrono::steady_clock::now() - started_);
      *result = 0;
    });
  }

  void Restart() { next_ = 0; }

  void Print(std::ostream& out) const {
    for (const auto& [name, least] : least_) out << "kernel " << name << ' ' << least << '\n';
  }

 private:
  void Add(const std::string& name, std::chrono::duration<double, std::milli> spent) {
    if (name.rfind("vm.builtin", 0) == 0) return;
    if (next_ == least_.size()) least_.emplace_back(name, spent.count());
    double& known = least_[next_++].second;
    known = std::min(known, spent.count());
  }

  std::vector<std::pair<std::string, double>> least_;
  size_t next_ = 0;
  std::chrono::steady_clock::time_point started_;
};

// The times of calls for so many seconds, at least three, the shortest first.
template <typename Before>
std::vector<double> Repeated(const ffi::Function& call, double seconds, Before before) {
  std::vector<double> times;
  ffi::Any result;
  for (double spent = 0; spent < 1e3 * seconds || times.size() < 3; spent += times.back()) {
    before();
    times.push_back(Milliseconds(call, &result));
  }
  std::sort(times.begin(), times.end());
  return times;
}

std::string Times(const ffi::Any& machine, const ffi::Function& call, double seconds) {
  std::vector<double> times = Repeated(call, seconds, [] {});
  KernelClock clock;
  ffi::Function instrument = Method(machine, "set_instrument");
  instrument(clock.Watch());
  Repeated(call, seconds, [&clock] { clock.Restart(); });
  instrument(nullptr);
  std::ostringstream out;
  out << std::fixed << std::setprecision(6);
  out << "best_ms " << times.front() << " median_ms " << times[times.size() / 2] << " runs " << times.size() << '\n';
  clock.Print(out);
  return out.str();
}

// The files of the library and of its outputs start with `from` and `to`.
std::string Run(const std::string& from, const std::string& to, double seconds, const std::vector<std::string>& files) {
  Plan plan = ReadPlan(from + "arguments.txt");
  if (files.size() != plan.inputs.size()) Fail("the model takes " + std::to_string(plan.inputs.size()) + " inputs.");
  const std::string threads = std::to_string(plan.threads);
  setenv("TVM_NUM_THREADS", threads.c_str(), 0);
  setenv("TVM_BIND_THREADS", "0", 0);

  // What the machine's tensors point to outlives it.
  Mapped weights(from + "arguments.bin", plan.weights);
  Memory arena = Allocate(plan.arena);
  std::vector<Memory> inputs;
  ffi::Any library = Global("ffi.ModuleLoadFromFile")(ffi::String(from + "library.so"));
  ffi::Any machine = Method(library, "vm_load_executable")();
  Method(machine, "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooled);

  std::vector<ffi::Any> arguments{ffi::String("main"), ffi::String("bound"), true};
  for (size_t i = 0; i < files.size(); ++i) {
    const Entry& input = plan.inputs[i];
    inputs.push_back(Allocate(input.Bytes()));
    ReadArray(files[i], input, inputs.back().get());
    arguments.emplace_back(TensorAt(inputs.back().get(), input));
  }
  for (const Entry& weight : plan.weights) arguments.emplace_back(TensorAt(weights.At(weight.offset), weight));
  for (const Entry& place : plan.places) arguments.emplace_back(TensorAt(arena.get() + place.offset, place));
  std::vector<ffi::AnyView> views(arguments.begin(), arguments.end());
  ffi::Any result;
  Method(machine, "save_function").CallPacked(views.data(), static_cast<int32_t>(views.size()), &result);

  ffi::Function call = Method(machine, "bound");
  call.CallPacked(nullptr, 0, &result);
  auto outputs = result.cast<ffi::Array<ffi::Tensor>>();
  for (size_t i = 0; i < plan.outputs.size(); ++i)
    WriteArray(to + std::to_string(i) + ".npy", plan.outputs[i], outputs[i].data_ptr());
  return seconds > 0 ? Times(machine, call, seconds) : "";
}

// What a server of TVM's RPC calls: the inputs are found under their numbers.
ffi::String RunAt(ffi::String place, double seconds) {
  const std::string start(place);
  std::vector<std::string> files;
  for (size_t i = 0; i < ReadPlan(start + "arguments.txt").inputs.size(); ++i)
    files.push_back(start + "in" + std::to_string(i) + ".npy");
  return Run(start, start + "out", seconds, files);
}

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, RunAt);

int main(int count, char** words) {
  std::vector<std::string> given(words + 1, words + count);
  auto dashes = std::find(given.begin(), given.end(), "--");
  const auto options = dashes - given.begin();
  try {
    if (dashes == given.end() || options < 2 || options > 3) Fail("usage: runner FOLDER OUT [SECONDS] -- IN.npy...");
    const double seconds = options > 2 ? std::atof(given[2].c_str()) : 0;
    std::fputs(Run(given[0] + '/', given[1] + '/', seconds, {dashes + 1, given.end()}).c_str(), stdout);
    return 0;
  } catch (const ffi::Error& error) {
    std::fprintf(stderr, "Error: TVM's runtime failed: %s\n", error.what());
    return 1;
  } catch (const std::runtime_error& error) {
    std::fprintf(stderr, "Error: %s\n", error.what());
    return 2;
  }
}
