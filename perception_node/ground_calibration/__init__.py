"""Where a camera is above the ground, from what is seen on the ground: `perception calibrate ground`.

Points whose place in the base frame is known determine all of height, pitch, roll, yaw, x and y (`points`). Lines along
the vehicle determine pitch and yaw and, with a known length, the height; three or more also the roll (`lines`). Both
are least squares through the lens model (`fit`). What is wanted and not determined is refused: the error says what an
error of one pixel would do to it. `picture` draws what was found over the image, to check by eye.
"""
