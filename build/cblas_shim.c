/* The matrix products of CBLAS, by the OpenBLAS that numpy carries (64-bit integers, prefixed names).
 *
 * MLX's Linux library asks its BLAS for these three alone; everything else it asks of LAPACK, which keeps the
 * reference BLAS. So one OpenBLAS serves both numpy and MLX. */
#include <stdint.h>
#define GEMM(name, scalar, ptr)                                                                                    \
    void scipy_cblas_##name##64_(int, int, int, int64_t, int64_t, int64_t, scalar, const ptr *, int64_t,           \
                                 const ptr *, int64_t, scalar, ptr *, int64_t);                                    \
    void cblas_##name(int order, int ta, int tb, int m, int n, int k, scalar alpha, const ptr *a, int lda,         \
                      const ptr *b, int ldb, scalar beta, ptr *c, int ldc) {                                       \
        scipy_cblas_##name##64_(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);                      \
    }
GEMM(sgemm, float, float)
GEMM(dgemm, double, double)
GEMM(cgemm, const void *, void)
