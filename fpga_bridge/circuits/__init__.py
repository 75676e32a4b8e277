"""The open way to gates: da4ml's logic, Verilog, Verilator and Yosys."""
