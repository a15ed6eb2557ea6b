# bounded SECONDS PROGRAM…: what the program writes, for that long at most; fails with 124 where it goes on. One that waits inside a
# broken driver cannot be killed and keeps its output open, so that nobody waits for the program itself, but for a reader of it.
bounded() {
  bounded_s=$1; shift
  { timeout -k 2 $((bounded_s + 1)) "$@" 2>&1 & } | timeout "$bounded_s" cat
}
