"""Run the benchmarks that `make bench` repeats."""

from benchmarks import linear_layer, step_time

if __name__ == "__main__":
    step_time.main()
    linear_layer.main()
