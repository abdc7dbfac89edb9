#!/bin/sh
# Runs a program under ThreadSanitizer, whose runtime bears only some address space
# randomisation: without any, where that is allowed: threads.sh PROGRAM
if setarch -R true 2> /dev/null; then
    exec setarch -R "$1"
fi
exec "$1"
