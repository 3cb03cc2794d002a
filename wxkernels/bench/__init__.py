"""The benchmark engine and its cases: what `wxkernels-bench` and the suites in bench/ run."""
