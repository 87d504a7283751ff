#include "tracking/assignment.hpp"

#include <limits>
#include <numeric>

namespace yolor_edge {

// Rows are added one by one, each along the shortest augmenting path (Jonker and Volgenant 1987). Prices keep
// all reduced costs of the rows before at 0 or more, so that the path is found as Dijkstra does.
void Assignment::solve(const double* costs, int32_t rows, int32_t columns, int32_t* chosen) {
    constexpr double kFar = std::numeric_limits<double>::infinity();
    const auto m = static_cast<size_t>(columns);
    row_prices_.assign(static_cast<size_t>(rows), 0.0);
    column_prices_.assign(m, 0.0);
    row_of_.assign(m, -1);
    came_from_.resize(m);
    for (int32_t added = 0; added < rows; ++added) {
        distances_.assign(m, kFar);
        is_done_.assign(m, 0);
        double reached = 0.0;
        int32_t row = added, last = -1, end = -1;
        while (end < 0) {
            const double* cost = costs + static_cast<size_t>(row) * m;
            const double price = row_prices_[static_cast<size_t>(row)];
            double least = kFar;
            size_t nearest = m;
            for (size_t c = 0; c < m; ++c) {
                if (is_done_[c]) continue;
                const double distance = reached + (cost[c] - price - column_prices_[c]);
                if (distance < distances_[c]) {
                    distances_[c] = distance;
                    came_from_[c] = last;
                }
                // Of columns equally near a free one, which ends the path; else the first.
                if (nearest == m || distances_[c] < least ||
                    (distances_[c] == least && row_of_[c] < 0 && row_of_[nearest] >= 0)) {
                    least = distances_[c];
                    nearest = c;
                }
            }
            is_done_[nearest] = 1;
            reached = least;
            last = static_cast<int32_t>(nearest);
            row = row_of_[nearest];
            if (row < 0) end = last;
        }
        row_prices_[static_cast<size_t>(added)] += reached;
        for (size_t c = 0; c < m; ++c) {
            if (!is_done_[c] || static_cast<int32_t>(c) == end) continue;
            row_prices_[static_cast<size_t>(row_of_[c])] += reached - distances_[c];
            column_prices_[c] -= reached - distances_[c];
        }
        for (int32_t c = end; c >= 0;) {
            const int32_t before = came_from_[static_cast<size_t>(c)];
            row_of_[static_cast<size_t>(c)] = before < 0 ? added : row_of_[static_cast<size_t>(before)];
            c = before;
        }
    }
    for (size_t c = 0; c < m; ++c) {
        if (row_of_[c] >= 0) chosen[row_of_[c]] = static_cast<int32_t>(c);
    }
}

int32_t Matcher::root_of(int32_t node) {
    while (parents_[static_cast<size_t>(node)] != node) {
        int32_t& parent = parents_[static_cast<size_t>(node)];
        parent = parents_[static_cast<size_t>(parent)];
        node = parent;
    }
    return node;
}

void Matcher::match(const std::vector<Pair>& pairs, int32_t rows, int32_t columns, int32_t* chosen) {
    for (int32_t i = 0; i < rows; ++i) chosen[i] = -1;
    if (pairs.empty()) return;
    const auto nodes = static_cast<size_t>(rows) + static_cast<size_t>(columns);
    parents_.resize(nodes);
    std::iota(parents_.begin(), parents_.end(), 0);
    for (const Pair& pair : pairs) {
        const int32_t one = root_of(pair.row), other = root_of(rows + pair.column);
        parents_[static_cast<size_t>(one < other ? other : one)] = one < other ? one : other;
    }
    // Sorted by their group, in the order they came in within it.
    ends_.assign(nodes + 1, 0);
    for (const Pair& pair : pairs) ++ends_[static_cast<size_t>(root_of(pair.row)) + 1];
    std::partial_sum(ends_.begin(), ends_.end(), ends_.begin());
    sorted_.resize(pairs.size());
    for (const Pair& pair : pairs) sorted_[ends_[static_cast<size_t>(root_of(pair.row))]++] = pair;
    places_.resize(nodes);
    size_t begin = 0;
    for (size_t root = 0; root < nodes; ++root) {
        if (ends_[root] == begin) continue;
        if (ends_[root] == begin + 1) {
            chosen[sorted_[begin].row] = sorted_[begin].column;
        } else {
            // Numbers of rows and columns in the group, in the order in which they appear.
            group_rows_.clear();
            group_columns_.clear();
            for (size_t i = begin; i < ends_[root]; ++i) {
                places_[static_cast<size_t>(sorted_[i].row)] = -1;
                places_[static_cast<size_t>(rows + sorted_[i].column)] = -1;
            }
            for (size_t i = begin; i < ends_[root]; ++i) {
                Pair& pair = sorted_[i];
                int32_t& row = places_[static_cast<size_t>(pair.row)];
                int32_t& column = places_[static_cast<size_t>(rows + pair.column)];
                if (row < 0) {
                    row = static_cast<int32_t>(group_rows_.size());
                    group_rows_.push_back(pair.row);
                }
                if (column < 0) {
                    column = static_cast<int32_t>(group_columns_.size());
                    group_columns_.push_back(pair.column);
                }
                pair.row = row;
                pair.column = column;
            }
            solve_group(sorted_.data() + begin, ends_[root] - begin, chosen);
        }
        begin = ends_[root];
    }
}

/// Of pairs with rows and columns numbered within the group.
void Matcher::solve_group(const Pair* pairs, size_t count, int32_t* chosen) {
    const auto rows = static_cast<int32_t>(group_rows_.size());
    const auto columns = static_cast<int32_t>(group_columns_.size());
    const bool is_tall = rows > columns;
    const int32_t few = is_tall ? columns : rows, many = is_tall ? rows : columns;
    costs_.assign(static_cast<size_t>(few) * static_cast<size_t>(many),
                  0.0);  // not to be matched is worth nothing
    for (size_t i = 0; i < count; ++i) {
        const int32_t a = is_tall ? pairs[i].column : pairs[i].row,
                      b = is_tall ? pairs[i].row : pairs[i].column;
        costs_[static_cast<size_t>(a) * static_cast<size_t>(many) + static_cast<size_t>(b)] = -pairs[i].gain;
    }
    group_chosen_.resize(static_cast<size_t>(few));
    assignment_.solve(costs_.data(), few, many, group_chosen_.data());
    for (int32_t a = 0; a < few; ++a) {
        const int32_t b = group_chosen_[static_cast<size_t>(a)];
        if (costs_[static_cast<size_t>(a) * static_cast<size_t>(many) + static_cast<size_t>(b)] >= 0.0)
            continue;
        const int32_t row = is_tall ? b : a, column = is_tall ? a : b;
        chosen[group_rows_[static_cast<size_t>(row)]] = group_columns_[static_cast<size_t>(column)];
    }
}

}  // namespace yolor_edge
