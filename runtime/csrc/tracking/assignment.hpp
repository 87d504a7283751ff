/// The optimal assignment of rows to columns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace yolor_edge {

/// Solves assignment problems, with working memory that is kept from one to the next.
class Assignment {
  public:
    /// Choose another column for every row so that the sum of the costs is least.
    ///   costs   (rows, columns), finite; rows at most columns
    ///   chosen  (rows,) out
    /// Of several least sums always the same one, whatever was solved before.
    void solve(const double* costs, int32_t rows, int32_t columns, int32_t* chosen);

  private:
    std::vector<double> row_prices_, column_prices_, distances_;
    std::vector<int32_t> row_of_, came_from_;
    std::vector<char> is_done_;
};

/// A row and a column that may be matched, and what that is worth, above 0.
struct Pair {
    int32_t row;
    int32_t column;
    double gain;
};

/// Matches rows with columns, as many or few as is worth most. Most rows have few columns that they may be
/// matched with, so rows and columns that are connected by pairs are solved group by group.
class Matcher {
  public:
    /// Choose pairs of which no two share a row or a column, so that the sum of the gains is largest.
    ///   pairs   each once, in any order; equal sums are decided by their order
    ///   chosen  (rows,) out: the column, or -1
    void match(const std::vector<Pair>& pairs, int32_t rows, int32_t columns, int32_t* chosen);

  private:
    int32_t root_of(int32_t node);
    void solve_group(const Pair* pairs, size_t count, int32_t* chosen);

    Assignment assignment_;
    std::vector<int32_t> parents_, places_, group_rows_, group_columns_, group_chosen_;
    std::vector<size_t> ends_;
    std::vector<Pair> sorted_;
    std::vector<double> costs_;
};

}  // namespace yolor_edge
