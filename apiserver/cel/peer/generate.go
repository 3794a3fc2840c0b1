package main

func generate(n int, seed int64) {}
