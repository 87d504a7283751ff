/// AVX-VNNI where the processor lacks it: the system reports VPDPBUSD in its VEX coding as an illegal
/// instruction, and this does what it would have done. So the very code that newer processors run is run
/// here, a few hundred times slower.
#pragma once

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace avxvnni_emulator {

inline uint64_t& emulated() {
    static uint64_t count = 0;
    return count;
}

/// Where a signal's frame keeps registers: XMM in the legacy area, upper halves of YMM where CPUID says.
class Registers {
  public:
    explicit Registers(ucontext_t* context) : context_(context) {
        unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
        __get_cpuid_count(0xD, 2, &eax, &ebx, &ecx, &edx);
        area_ = reinterpret_cast<uint8_t*>(context->uc_mcontext.fpregs);
        upper_ = area_ + ebx;
        // Bit 2 of the area's header: the upper halves are there, and not all zero.
        uint64_t present = 0;
        std::memcpy(&present, area_ + 512, sizeof present);
        if ((present & 4) == 0) std::memset(upper_, 0, 16 * 16);
        present |= 4;
        std::memcpy(area_ + 512, &present, sizeof present);
    }
    void load(int number, uint8_t* bytes) const {
        std::memcpy(bytes, area_ + 160 + 16 * number, 16);
        std::memcpy(bytes + 16, upper_ + 16 * number, 16);
    }
    void store(int number, const uint8_t* bytes) {
        std::memcpy(area_ + 160 + 16 * number, bytes, 16);
        std::memcpy(upper_ + 16 * number, bytes + 16, 16);
    }
    /// A general register by its number in instructions.
    int64_t general(int number) const {
        static constexpr int kPlaces[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                          REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                          REG_R12, REG_R13, REG_R14, REG_R15};
        return context_->uc_mcontext.gregs[kPlaces[number]];
    }

  private:
    ucontext_t* context_;
    uint8_t* area_;
    uint8_t* upper_;
};

/// Three-byte VEX prefix (map 2, operand size prefix 66, 256 bits), opcode 50, operand bytes: Intel's manual,
/// volume 2, "Instruction format". Anything else ends the program, as it would have without this.
inline void on_illegal_instruction(int, siginfo_t*, void* raw) {
    auto* context = static_cast<ucontext_t*>(raw);
    const auto* code = reinterpret_cast<const uint8_t*>(context->uc_mcontext.gregs[REG_RIP]);
    const bool is_ours =
        code[0] == 0xC4 && (code[1] & 0x1F) == 2 && (code[2] & 0x87) == 0x05 && code[3] == 0x50;
    if (!is_ours) {
        static const char kMessage[] = "an illegal instruction that is not VPDPBUSD\n";
        std::fwrite(kMessage, 1, sizeof kMessage - 1, stderr);
        std::_Exit(1);
    }
    Registers registers(context);
    const int high_reg = (~code[1] >> 7 & 1) << 3, high_index = (~code[1] >> 6 & 1) << 3,
              high_base = (~code[1] >> 5 & 1) << 3;
    const int values_register = ~code[2] >> 3 & 15;
    const uint8_t operand = code[4];
    const int target = (operand >> 3 & 7) | high_reg, mode = operand >> 6, base = operand & 7;
    const uint8_t* next = code + 5;
    int8_t weights[32];
    if (mode == 3) {
        registers.load(base | high_base, reinterpret_cast<uint8_t*>(weights));
    } else {
        int64_t address = 0;
        bool has_wide_offset = mode == 2;
        if (base == 4) {
            const uint8_t scaled = *next++;
            const int index = (scaled >> 3 & 7) | high_index;
            if (index != 4) address += registers.general(index) << (scaled >> 6);
            if ((scaled & 7) == 5 && mode == 0) {
                has_wide_offset = true;
            } else {
                address += registers.general((scaled & 7) | high_base);
            }
        } else if (base == 5 && mode == 0) {
            has_wide_offset = true;
            address += reinterpret_cast<int64_t>(next) + 4;  // relative to the next instruction
        } else {
            address += registers.general(base | high_base);
        }
        if (has_wide_offset) {
            int32_t offset = 0;
            std::memcpy(&offset, next, sizeof offset);
            address += offset;
            next += 4;
        } else if (mode == 1) {
            address += static_cast<int8_t>(*next++);
        }
        std::memcpy(weights, reinterpret_cast<const void*>(address), sizeof weights);
    }
    uint8_t values[32];
    int32_t sums[8];
    registers.load(values_register, values);
    registers.load(target, reinterpret_cast<uint8_t*>(sums));
    for (int i = 0; i < 32; ++i) sums[i / 4] += values[i] * weights[i];
    registers.store(target, reinterpret_cast<const uint8_t*>(sums));
    context->uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(next);
    ++emulated();
}

inline void install() {
    struct sigaction action = {};
    action.sa_sigaction = on_illegal_instruction;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, nullptr);
}

}  // namespace avxvnni_emulator

#endif
