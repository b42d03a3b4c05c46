module backstop/tests/collector

go 1.26.0
