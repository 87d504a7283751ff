/// How a box moves: a Kalman filter of constant velocity for its centre and its size.
#pragma once

#include <algorithm>
#include <cmath>

namespace yolor_edge {

/// Where a camera's picture went since the update before: x' = xx * x + xy * y + x0, and so for y.
struct CameraMotion {
    double xx = 1.0, xy = 0.0, x0 = 0.0;
    double yx = 0.0, yy = 1.0, y0 = 0.0;
};

/// One coordinate and its velocity in pixels a frame, with their covariance. Noise is independent for each
/// coordinate, so four of these are the filter of all eight numbers of a box.
class MovingValue {
  public:
    double value = 0.0, velocity = 0.0;

    void begin(double measured, double size) {
        value = measured;
        velocity = 0.0;
        value_variance_ = square(2.0 * kPosition * size);
        covariance_ = 0.0;
        velocity_variance_ = square(10.0 * kVelocity * size);
    }

    void predict(double frames, double size) {
        value += frames * velocity;
        value_variance_ +=
            frames * (2.0 * covariance_ + frames * velocity_variance_ + square(kPosition * size));
        covariance_ += frames * velocity_variance_;
        velocity_variance_ += frames * square(kVelocity * size);
    }

    void correct(double measured, double size) {
        const double total = value_variance_ + square(kPosition * size);
        const double gain = value_variance_ / total, velocity_gain = covariance_ / total;
        const double error = measured - value;
        value += gain * error;
        velocity += velocity_gain * error;
        velocity_variance_ -= velocity_gain * covariance_;
        covariance_ -= gain * covariance_;
        value_variance_ -= gain * value_variance_;
    }

    void scale(double factor) {
        value *= factor;
        velocity *= factor;
        scale_variances(factor * factor);
    }

    void scale_variances(double factor) {
        value_variance_ *= factor;
        covariance_ *= factor;
        velocity_variance_ *= factor;
    }

  private:
    // Standard deviations in sizes of the box: of where it is, and of its velocity (as in DeepSORT and
    // ByteTrack).
    static constexpr double kPosition = 1.0 / 20.0, kVelocity = 1.0 / 160.0;

    static double square(double x) { return x * x; }

    double value_variance_ = 0.0, covariance_ = 0.0, velocity_variance_ = 0.0;
};

/// A box that moves. Boxes are x1, y1, x2, y2.
class MovingBox {
  public:
    void begin(const float* box) {
        const Measured at(box);
        x_.begin(at.x, at.width);
        y_.begin(at.y, at.height);
        width_.begin(at.width, at.width);
        height_.begin(at.height, at.height);
    }

    void predict(double frames) {
        const double w = width(), h = height();
        x_.predict(frames, w);
        y_.predict(frames, h);
        width_.predict(frames, w);
        height_.predict(frames, h);
    }

    void correct(const float* box) {
        const Measured at(box);
        const double w = width(), h = height();
        x_.correct(at.x, w);
        y_.correct(at.y, h);
        width_.correct(at.width, w);
        height_.correct(at.height, h);
    }

    /// What nobody sees keeps its size.
    void keep_size() { width_.velocity = height_.velocity = 0.0; }

    /// Follow the camera's picture. Sizes grow as areas do; what turning makes of the variances is left out.
    void follow(const CameraMotion& motion) {
        const double x = x_.value, y = y_.value, vx = x_.velocity, vy = y_.velocity;
        x_.value = motion.xx * x + motion.xy * y + motion.x0;
        y_.value = motion.yx * x + motion.yy * y + motion.y0;
        x_.velocity = motion.xx * vx + motion.xy * vy;
        y_.velocity = motion.yx * vx + motion.yy * vy;
        const double area = std::fabs(motion.xx * motion.yy - motion.xy * motion.yx);
        x_.scale_variances(area);
        y_.scale_variances(area);
        width_.scale(std::sqrt(area));
        height_.scale(std::sqrt(area));
    }

    double x() const { return x_.value; }
    double y() const { return y_.value; }

    void write(float* box) const {
        const double w = 0.5 * width(), h = 0.5 * height();
        box[0] = static_cast<float>(x_.value - w);
        box[1] = static_cast<float>(y_.value - h);
        box[2] = static_cast<float>(x_.value + w);
        box[3] = static_cast<float>(y_.value + h);
    }

  private:
    struct Measured {
        double x, y, width, height;
        explicit Measured(const float* box)
            : x(0.5 * (static_cast<double>(box[0]) + static_cast<double>(box[2]))),
              y(0.5 * (static_cast<double>(box[1]) + static_cast<double>(box[3]))),
              width(static_cast<double>(box[2]) - static_cast<double>(box[0])),
              height(static_cast<double>(box[3]) - static_cast<double>(box[1])) {}
    };

    double width() const { return std::max(width_.value, kLeastSize); }
    double height() const { return std::max(height_.value, kLeastSize); }

    static constexpr double kLeastSize = 1e-3;  // pixels; noise in proportion to 0 would end the filter

    MovingValue x_, y_, width_, height_;
};

}  // namespace yolor_edge
