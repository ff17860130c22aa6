#!/bin/sh
# Says that it runs, then outlives its timeout with a child of its own, which the driver can tell
# from all other processes by the seconds it sleeps.
echo "shell test: waiting for nothing"
sleep "$(cat seconds.txt)" &
wait
