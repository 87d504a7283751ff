# The kernels without Python: a library with a C interface, and the same kernels on 64-bit ARM.
# BUILD=... says where to, CXXFLAGS=... is added to what is needed; CROSS and EMULATE choose the compiler and the emulator for ARM.

BUILD ?= build
CROSS ?= aarch64-linux-gnu-
EMULATE ?= qemu-aarch64
OBJCOPY ?= objcopy
# Clang makes no unique symbols and does not know the option.
NO_UNIQUE := $(shell $(CXX) -fno-gnu-unique -E -x c++ /dev/null > /dev/null 2>&1 && echo -fno-gnu-unique)
NATIVE_FLAGS := -std=c++17 -O3 -fPIC -pthread -Wall -Wextra -Werror -fvisibility=hidden $(NO_UNIQUE) \
	-falign-loops=32 -ffp-contract=off -Iruntime/csrc -Iruntime/csrc/c_api
NATIVE_SOURCES := $(filter-out runtime/csrc/c_api/%,$(wildcard runtime/csrc/*/*.cpp))
NATIVE_HEADERS := native.mk $(wildcard runtime/csrc/*/*.hpp runtime/csrc/c_api/*.h)
KERNEL_OBJECTS := $(NATIVE_SOURCES:runtime/csrc/%.cpp=%.o)
C_API_SOURCES := $(wildcard runtime/csrc/c_api/*.cpp)
LIBRARY_OBJECTS := $(KERNEL_OBJECTS) $(C_API_SOURCES:runtime/csrc/%.cpp=%.o)
ABI_VERSION := $(shell sed -n 's/^.define YOLOR_EDGE_ABI_VERSION //p' runtime/csrc/c_api/yolor_edge.h)

COMPILERS := $(addprefix g++-,11 12 13 14) $(addprefix clang++-,14 15 16 17 18 19)

.PHONY: library aarch64 compilers

library: $(BUILD)/libyolor_edge.so $(BUILD)/libyolor_edge.a  ## build the kernels as a library with a C interface

# Never unloaded, since its workers outlive every call.
$(BUILD)/libyolor_edge.so: $(addprefix $(BUILD)/native/,$(LIBRARY_OBJECTS)) runtime/csrc/c_api/yolor_edge.map
	$(CXX) -shared -pthread $(CXXFLAGS) $(LDFLAGS) -Wl,-z,nodelete -Wl,--no-undefined -Wl,-soname,$(@F).$(ABI_VERSION) \
		-Wl,--version-script=runtime/csrc/c_api/yolor_edge.map -o $@.$(ABI_VERSION) $(filter %.o,$^)
	ln -sf $(@F).$(ABI_VERSION) $@

# One object, so that what is not of the interface can be made local; its groups taken apart, so that the linker
# does not drop local copies of templates in favour of the program's.
$(BUILD)/libyolor_edge.a: $(addprefix $(BUILD)/native/,$(LIBRARY_OBJECTS))
	$(LD) -r --force-group-allocation -o $(BUILD)/native/libyolor_edge.o $^
	$(OBJCOPY) --wildcard --keep-global-symbol='yolor_edge_*' $(BUILD)/native/libyolor_edge.o
	rm -f $@
	$(AR) rcs $@ $(BUILD)/native/libyolor_edge.o

# Objects, once for this machine and once for ARM.
$(BUILD)/native/%.o: runtime/csrc/%.cpp $(NATIVE_HEADERS)
	@mkdir -p $(@D)
	$(CXX) $(NATIVE_FLAGS) $(CXXFLAGS) -c -o $@ $<

$(BUILD)/aarch64/%.o: runtime/csrc/%.cpp $(NATIVE_HEADERS)
	@mkdir -p $(@D)
	$(CROSS)g++ $(NATIVE_FLAGS) $(CXXFLAGS) -c -o $@ $<

$(BUILD)/native/test-%: tests/native/%.cpp $(addprefix $(BUILD)/native/,$(KERNEL_OBJECTS))
	$(CXX) $(NATIVE_FLAGS) $(CXXFLAGS) -o $@ $^

# Static, so that the emulator needs no ARM libraries beside it.
$(BUILD)/aarch64/test-%: tests/native/%.cpp $(addprefix $(BUILD)/aarch64/,$(KERNEL_OBJECTS))
	$(CROSS)g++ $(NATIVE_FLAGS) $(CXXFLAGS) -static -o $@ $^

# The emulated processor is an old one first, without the dot product instructions, then one that has them.
aarch64: $(BUILD)/native/test-kernels $(BUILD)/native/test-decoder $(BUILD)/aarch64/test-kernels $(BUILD)/aarch64/test-decoder  ## compare the kernels on emulated 64-bit ARM with this machine's
	$(BUILD)/native/test-kernels 20 $(BUILD)/native/kernels.answers
	$(EMULATE) $(BUILD)/aarch64/test-kernels 20 $(BUILD)/aarch64/kernels.answers
	cmp $(BUILD)/native/kernels.answers $(BUILD)/aarch64/kernels.answers
	$(BUILD)/native/test-decoder write $(BUILD)/native/decoder.answers
	for cpu in cortex-a53 max; do \
		$(EMULATE) -cpu $$cpu $(BUILD)/aarch64/test-decoder write $(BUILD)/aarch64/decoder-$$cpu.answers && \
		$(BUILD)/native/test-decoder compare $(BUILD)/native/decoder.answers $(BUILD)/aarch64/decoder-$$cpu.answers || exit 1; \
	done

# Every one is to take every file without a warning.
compilers:  ## compile the kernels with each of GCC 11 to 14 and Clang 14 to 19 that is installed
	@missing=; for compiler in $(COMPILERS); do \
		if ! command -v $$compiler > /dev/null; then missing="$$missing $$compiler"; continue; fi; \
		echo $$compiler; \
		for source in $(NATIVE_SOURCES) $(C_API_SOURCES); do \
			$$compiler $(filter-out $(NO_UNIQUE),$(NATIVE_FLAGS)) $(CXXFLAGS) -c -o /dev/null $$source || exit 1; \
		done; \
	done; \
	if [ -n "$$missing" ]; then echo "not installed:$$missing"; fi

# From plain C, for `make sanitize`, whose flags these are.
sanitize: build/sanitize/c_api

build/sanitize/c_api: tests/native/c_api.c $(CPP_FILES)
	@mkdir -p $(@D)
	$(CC) -std=c99 -pedantic -O1 -g -Wall -Wextra -Werror -fsanitize=address,undefined -Iruntime/csrc/c_api -c -o $@.o $<
	$(SANITIZE) -fsanitize=address,undefined -o $@ $@.o $(NATIVE) $(wildcard runtime/csrc/c_api/*.cpp)

# What is built beforehand: the GPU's kernels for every GPU, and wheels for Linux on x86-64 and 64-bit ARM.
# PYTHONS="python3.10 python3.12" chooses the Pythons, WHEEL_ARCHS=aarch64 the processors.

PYTHONS ?= $(PYTHON)

.PHONY: kernels wheels pythons bounds

kernels: $(VENV)/.made-for-dev  ## compile the GPU's kernels for every GPU, to be shipped in wheels; needs nvcc
	$(BIN)/python scripts/make_kernels.py

wheels: $(VENV)/.made-for-dev  ## build wheels for x86-64 and 64-bit ARM into dist, for PYTHONS="python3.10 ..."
	$(BIN)/python scripts/make_kernels.py || echo "make: without nvcc the wheels go without compiled kernels"
	scripts/make-wheels.sh dist $(PYTHONS)

# The runtime's tests where the versions of what it stands on are others than in .venv.
pythons:  ## run the runtime's tests with each of PYTHONS="python3.10 python3.13 ..."
	for python in $(PYTHONS); do scripts/test-runtime.sh $(BUILD)/pythons/$$(basename $$python) $$python || exit 1; done

bounds:  ## run the runtime's tests with the oldest numpy, OpenCV, ONNX and ONNX Runtime that are allowed
	@mkdir -p $(BUILD)
	$(PYTHON) scripts/lowest.py opencv onnxruntime export > $(BUILD)/bounds.txt
	scripts/test-runtime.sh $(BUILD)/bounds $(PYTHON) $(BUILD)/bounds.txt
