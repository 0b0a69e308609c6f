// Runs a compiled library on the chip it was made for: C++ and TVM's runtime, neither Python nor torch.
//
//   runner FOLDER OUT [SECONDS] -- IN.npy...
//
// FOLDER holds library.so, arguments.txt and arguments.bin as `chipfit compile --target` writes them. Each output goes
// to OUT/<its place>.npy. With SECONDS the call is repeated for that long, and its best and median time are printed.
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
#include <sstream>
#include <string>
#include <vector>

namespace ffi = tvm::ffi;

namespace {

constexpr size_t kAlignment = 64;  // bytes, of a vector load
constexpr int kPooled = 2;         // the VM's pooling allocator

[[noreturn]] void Fail(const std::string& sentence) {
  std::fprintf(stderr, "Error: %s\n", sentence.c_str());
  std::exit(2);
}

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

char* Allocate(size_t bytes) {
  return static_cast<char*>(std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment));
}

// The weights stay on disk until a page is read, and start where vectors do.
char* Map(const std::string& path, const std::vector<Entry>& entries) {
  if (entries.empty()) return nullptr;
  int file = open(path.c_str(), O_RDONLY);
  struct stat status {};
  if (file < 0 || fstat(file, &status)) Fail(path + " can't be read: copy the whole artifact.");
  for (const Entry& entry : entries)
    if (entry.offset + entry.Bytes() > static_cast<size_t>(status.st_size))
      Fail(path + " is too short: copy the whole artifact.");
  void* memory = mmap(nullptr, status.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  if (memory == MAP_FAILED) Fail(path + " can't be mapped: free some memory.");
  close(file);
  return static_cast<char*>(memory);
}

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

void PrintTimes(const ffi::Function& call, double seconds) {
  std::vector<double> times;
  ffi::Any result;
  for (double spent = 0; spent < 1e3 * seconds || times.size() < 3; spent += times.back())
    times.push_back(Milliseconds(call, &result));
  std::sort(times.begin(), times.end());
  std::printf("best_ms %.4f median_ms %.4f runs %zu\n", times.front(), times[times.size() / 2], times.size());
}

void Run(const std::string& folder, const std::string& out, double seconds, const std::vector<std::string>& files) {
  Plan plan = ReadPlan(folder + "/arguments.txt");
  if (files.size() != plan.inputs.size()) Fail("the model takes " + std::to_string(plan.inputs.size()) + " inputs.");
  const std::string threads = std::to_string(plan.threads);
  setenv("TVM_NUM_THREADS", threads.c_str(), 0);
  setenv("TVM_BIND_THREADS", "0", 0);

  ffi::Any library = Global("ffi.ModuleLoadFromFile")(ffi::String(folder + "/library.so"));
  ffi::Any machine = Method(library, "vm_load_executable")();
  Method(machine, "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooled);

  std::vector<ffi::Any> arguments{ffi::String("main"), ffi::String("bound"), true};
  for (size_t i = 0; i < files.size(); ++i) {
    const Entry& input = plan.inputs[i];
    char* memory = Allocate(input.Bytes());
    ReadArray(files[i], input, memory);
    arguments.emplace_back(TensorAt(memory, input));
  }
  char* weights = Map(folder + "/arguments.bin", plan.weights);
  for (const Entry& weight : plan.weights) arguments.emplace_back(TensorAt(weights + weight.offset, weight));
  char* arena = Allocate(plan.arena);
  for (const Entry& place : plan.places) arguments.emplace_back(TensorAt(arena + place.offset, place));
  std::vector<ffi::AnyView> views(arguments.begin(), arguments.end());
  ffi::Any result;
  Method(machine, "save_function").CallPacked(views.data(), static_cast<int32_t>(views.size()), &result);

  ffi::Function call = Method(machine, "bound");
  call.CallPacked(nullptr, 0, &result);
  auto outputs = result.cast<ffi::Array<ffi::Tensor>>();
  for (size_t i = 0; i < plan.outputs.size(); ++i)
    WriteArray(out + "/" + std::to_string(i) + ".npy", plan.outputs[i], outputs[i].data_ptr());
  if (seconds > 0) PrintTimes(call, seconds);
}

}  // namespace

int main(int count, char** words) {
  std::vector<std::string> given(words + 1, words + count);
  auto dashes = std::find(given.begin(), given.end(), "--");
  const auto options = dashes - given.begin();
  if (dashes == given.end() || options < 2 || options > 3) Fail("usage: runner FOLDER OUT [SECONDS] -- IN.npy...");
  try {
    Run(given[0], given[1], options > 2 ? std::atof(given[2].c_str()) : 0, {dashes + 1, given.end()});
  } catch (const ffi::Error& error) {
    std::fprintf(stderr, "Error: TVM's runtime failed: %s\n", error.what());
    return 1;
  }
  return 0;
}
