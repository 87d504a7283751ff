/// What runs the network is yours to choose; this example reads its outputs from files, or asks ONNX Runtime.
#pragma once

#include <map>
#include <string>
#include <vector>

/// The network's outputs for one image by name, each row-major.
using Heads = std::map<std::string, std::vector<float>>;

/// NAME.f32 of every head in `names` that lies in `folder`.
Heads heads_from_folder(const std::string& folder, const std::vector<std::string>& names);

/// Whether this program was built with ONNX Runtime.
bool has_onnxruntime();

/// Run a graph on `images`, (1, 3, height, width). Throws std::runtime_error where it cannot.
Heads heads_from_onnxruntime(const std::string& graph, const std::vector<float>& images, long height,
                             long width, const std::vector<std::string>& names);
