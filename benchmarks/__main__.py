"""Run the benchmarks that `make bench` repeats."""

from benchmarks import contraction, linear_layer, step_time, tt_maps

if __name__ == "__main__":
    contraction.main()
    step_time.main()
    linear_layer.main()
    tt_maps.main()
