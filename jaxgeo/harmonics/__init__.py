"""What a signal on the sphere or on SO(3) contains: Wigner functions, transforms, Clebsch-Gordan coefficients."""
