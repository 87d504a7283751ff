# The kernels without Python: a library with a C interface, and the same kernels on 64-bit ARM.
# BUILD=... says where to, CXXFLAGS=... is added to what is needed; CROSS and EMULATE choose the compiler and the emulator for ARM.

BUILD ?= build
CROSS ?= aarch64-linux-gnu-
EMULATE ?= qemu-aarch64
NATIVE_FLAGS := -std=c++17 -O3 -fPIC -pthread -Wall -Wextra -Werror -fvisibility=hidden -ffp-contract=off \
	-Iruntime/csrc -Iruntime/csrc/c_api
NATIVE_SOURCES := $(filter-out runtime/csrc/bindings%,$(wildcard runtime/csrc/*.cpp))
NATIVE_HEADERS := $(wildcard runtime/csrc/*.hpp runtime/csrc/c_api/*.h runtime/csrc/c_api/*.hpp)
KERNEL_OBJECTS := $(NATIVE_SOURCES:runtime/csrc/%.cpp=%.o)

.PHONY: aarch64

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
