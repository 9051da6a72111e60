"""What a results folder says, as tables (`tables`), plots (`plots`, with the extra `report`) and a page (`page`)."""
