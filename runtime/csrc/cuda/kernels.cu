/// All CUDA kernels as one unit, for NVRTC and nvcc with --fmad=false: the arithmetic is that of the CPU's
/// kernels and rounds where theirs does.
#include "boxes.cuh"
#include "letterbox.cuh"
#include "masks.cuh"
#include "ranking.cuh"
#include "semantic.cuh"
