from headtohead.cli import main

main()
