/* Requests of a process to the valgrind it runs under (callgrind-manual.html, "Client request reference"). */

#include <valgrind/callgrind.h>

/* Write the instructions since the last call to a file, and count on from nothing; the first call begins to count. */
void count(void)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_DUMP_STATS;
}
