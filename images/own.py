"""stub until the models branch lands"""


def as_image_data(images, labels=None, name="own"):
    return images
