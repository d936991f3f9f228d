"""The main job on real radiographs: three hospitals and a coordinator, each its own processes, on one machine."""
