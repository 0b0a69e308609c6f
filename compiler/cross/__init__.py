"""Libraries for other chips: linked with a cross compiler, run by a program of their own, checked in an emulator."""
