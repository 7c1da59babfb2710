//! Random lives against a simple model in memory.
