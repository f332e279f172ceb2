"""Run the benchmarks that `make bench` repeats."""

from benchmarks import contraction, layers, linear_layer, step_time, tt_maps, tt_svd

if __name__ == "__main__":
    contraction.main()
    step_time.main()
    linear_layer.main()
    layers.main()
    tt_maps.main()
    tt_svd.main()
